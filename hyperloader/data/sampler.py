"""Multi-task batches drawn by temperature sampling."""

from collections.abc import Iterator, Sequence

import numpy as np

_BLOCK = 256  # steps whose tasks are drawn together


class MultiTaskBatches:
    """Batches of (task_id, index): tasks drawn with p(t) ∝ size(t)^(1/temperature), sentences of a task in shuffled
    epochs, or each one independently of the others.

    Batch k depends on ``seed`` and k alone: a run resumed with ``start_step=k``, or parted over any number of
    processes, sees the very batches of the one that was not. A sentence comes again only when all others of its task
    have come, unless they are drawn with replacement.

    Args:
        sizes: examples of every task, at least 1.
        batch_size: examples of one step over all processes.
        steps: steps of the whole run.
        temperature: above 0; 1 is proportional to size, infinity uniform.
        mode: ``mixed`` draws a task for every example, ``single`` one for the whole batch.
        batches_per_task: in mode ``single``, so many batches in a row hold the same task: those of one update of the
            weights.
        replacement: draw every sentence of a task independently of the others; without, in shuffled epochs.
        seed: a whole number from 0.
        start_step: the first step, for resuming.
        process_index, num_processes: this process gets the examples [i·b, (i+1)·b) of every batch, b = batch_size /
            num_processes.
        lengths: tokens of every example of every task. With them, ``mixed`` batches are drawn ``bucket`` at a time and
            cut from the examples sorted by length, so that little of a batch is padding.
        bucket: batches that are sorted together; a divisor of 256, 1 for none.

    ``iter()`` gives the batches from ``start_step`` to ``steps``, ``batch(k)`` the one of step k, ``len()`` how many
    ``iter()`` gives.

    Raises:
        ValueError: a value outside its range, or a batch size that the number of processes does not divide.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_size: int,
        steps: int,
        *,
        temperature: float = 10.0,
        mode: str = "mixed",
        batches_per_task: int = 1,
        replacement: bool = False,
        seed: int = 0,
        start_step: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        lengths: Sequence[Sequence[int]] | None = None,
        bucket: int = 8,
    ) -> None:
        self.sizes = [_whole(f"sizes[{task}]", size, 1) for task, size in enumerate(sizes)]
        if not self.sizes:
            raise ValueError("sizes must name at least one task, got none")
        self.batch_size = _whole("batch_size", batch_size, 1)
        self.steps = _whole("steps", steps, 0)
        self.seed = _whole("seed", seed, 0)
        self.start_step = _whole("start_step", start_step, 0, self.steps)
        self.num_processes = _whole("num_processes", num_processes, 1)
        self.process_index = _whole("process_index", process_index, 0, self.num_processes - 1)
        if not isinstance(temperature, (int, float)) or not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature!r}")
        if mode not in ("mixed", "single"):
            raise ValueError(f"mode must be 'mixed' or 'single', got {mode!r}")
        if self.batch_size % self.num_processes:
            raise ValueError(
                f"batch_size must be divisible by num_processes ({self.num_processes}), got {self.batch_size}"
            )
        self.batches_per_task = _whole("batches_per_task", batches_per_task, 1)
        if mode == "mixed" and self.batches_per_task > 1:
            raise ValueError(f"batches_per_task must be 1 in mode 'mixed', got {batches_per_task}")
        if not isinstance(replacement, bool):
            raise ValueError(f"replacement must be True or False, got {replacement!r}")
        self.temperature, self.mode, self.replacement = temperature, mode, replacement
        if _BLOCK % _whole("bucket", bucket, 1):
            raise ValueError(f"bucket must be a divisor of {_BLOCK}, got {bucket}")
        if lengths is not None and [len(task) for task in lengths] != self.sizes:
            raise ValueError(f"lengths must have {self.sizes} entries by task, got {[len(task) for task in lengths]}")
        self.lengths = [] if lengths is None else lengths
        self.bucket = 1 if lengths is None or mode == "single" else bucket
        logs = np.log(np.asarray(self.sizes, dtype=np.float64)) / temperature
        weights = np.exp(logs - logs.max())
        self.probabilities = weights / weights.sum()
        self._starts = [np.zeros(len(self.sizes), dtype=np.int64)]  # draws of every task before each block
        self._block: tuple[int, np.ndarray, np.ndarray] | None = None
        self._filled: tuple[int, list[list[tuple[int, int]]]] | None = None
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.steps - self.start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (self.batch(step) for step in range(self.start_step, self.steps))

    def batch(self, step: int) -> list[tuple[int, int]]:
        """This process's part of the batch of one step. Raises ValueError for a step outside the run."""
        _whole("step", step, 0, self.steps - 1)
        number, place = divmod(step, self.bucket)
        if self._filled is None or self._filled[0] != number:
            self._filled = (number, self._fill(number))
        part = self.batch_size // self.num_processes
        return self._filled[1][place][self.process_index * part : (self.process_index + 1) * part]

    def _fill(self, number: int) -> list[list[tuple[int, int]]]:
        """The whole batches of a bucket: in the order drawn, or cut from its examples sorted by length, shuffled."""
        block, row = divmod(number * self.bucket, _BLOCK)
        if self._block is None or self._block[0] != block:
            self._block = (block, *self._draw(block))
        tasks, sentences = (values[row : row + self.bucket].reshape(-1).tolist() for values in self._block[1:])
        if not self.replacement:
            sentences = [self._sentence(task, turn) for task, turn in zip(tasks, sentences, strict=True)]
        examples = list(zip(tasks, sentences, strict=True))
        if self.bucket == 1:
            return [examples]
        examples.sort(key=lambda example: self.lengths[example[0]][example[1]])
        batches = [examples[start : start + self.batch_size] for start in range(0, len(examples), self.batch_size)]
        order = np.random.default_rng([self.seed, 2, number]).permutation(self.bucket)
        return [batches[place] for place in order]

    def _tasks(self, number: int) -> np.ndarray:
        """The task of every example of a block of steps, (_BLOCK, batch_size)."""
        columns = self.batch_size if self.mode == "mixed" else 1
        blocks, rows = np.divmod(np.arange(number * _BLOCK, (number + 1) * _BLOCK) // self.batches_per_task, _BLOCK)
        draws = np.empty((_BLOCK, columns))
        for block in np.unique(blocks):
            here = blocks == block
            draws[here] = np.random.default_rng([self.seed, 0, block]).random((_BLOCK, columns))[rows[here]]
        tasks = np.searchsorted(np.cumsum(self.probabilities)[:-1], draws, side="right")
        return np.broadcast_to(tasks, (_BLOCK, self.batch_size))

    def _draw(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tasks of a block, and for each example its sentence (with replacement) or which of its task's draws (from 0,
        over the whole run) it is."""
        if self.replacement:
            tasks = self._tasks(number)
            draws = np.random.default_rng([self.seed, 3, number]).random(tasks.shape)
            return tasks, (draws * np.asarray(self.sizes)[tasks]).astype(np.int64)
        while len(self._starts) <= number:
            drawn = np.bincount(self._tasks(len(self._starts) - 1).reshape(-1), minlength=len(self.sizes))
            self._starts.append(self._starts[-1] + drawn)
        tasks = self._tasks(number)
        turns = np.empty(tasks.shape, dtype=np.int64)
        for task, start in enumerate(self._starts[number]):
            where = tasks == task
            turns[where] = start + np.arange(where.sum())
        return tasks, turns

    def _sentence(self, task: int, turn: int) -> int:
        epoch, position = divmod(turn, self.sizes[task])
        if self._orders.get(task, (None,))[0] != epoch:
            draws = np.random.default_rng([self.seed, 1, task, epoch]).random(self.sizes[task])
            self._orders[task] = (epoch, np.argsort(draws, kind="stable"))
        return int(self._orders[task][1][position])


def _whole(name: str, value: int, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")
    return int(value)
