"""The batches of a training, from any step on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from hyperloader.data.examples import Example
from hyperloader.data.sampler import MultiTaskBatches
from hyperloader.training.presets import TrainingOptions

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TrainBatches:
    """Collated batches, to be iterated over again and again: each is a function of its number alone, so that a resumed
    training skips nothing.

    Args:
        options: the training.
        examples: of each task, its training examples.
        collate: examples to a batch.
        data_seed: of the order of the batches.
        next_step: gives the number of updates that have been made when an iteration begins.
        process, processes: which part of every batch, of how many.
    """

    options: TrainingOptions
    examples: Sequence[Sequence[Example]]
    collate: Callable[[Sequence[Example]], Batch]
    data_seed: int
    next_step: Callable[[], int]
    process: int
    processes: int

    def batches(self) -> MultiTaskBatches:
        """The (task, example) pairs of every batch."""
        options, lengths = self.options, None
        if options.bucket > 1:
            lengths = [[len(example.input_ids) for example in task] for task in self.examples]
        return MultiTaskBatches(
            [len(task) for task in self.examples],
            options.batch_size * self.processes,
            options.steps * options.gradient_accumulation,
            seed=self.data_seed,
            start_step=self.next_step() * options.gradient_accumulation,
            process_index=self.process,
            num_processes=self.processes,
            lengths=lengths,
            **options.batches,
        )

    def padding(self, count: int) -> float:
        """The share of padding among the input tokens of the next ``count`` batches, or of those that are left."""
        read = padded = 0
        for _, batch in zip(range(count), self.batches(), strict=False):
            lengths = [len(self.examples[task][index].input_ids) for task, index in batch]
            read, padded = read + sum(lengths), padded + max(lengths) * len(lengths)
        return 1 - read / padded

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches():
            yield self.collate([self.examples[task][index] for task, index in batch])
