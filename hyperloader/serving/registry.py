"""The runs of a server: loaded, tried, and replaced by new versions while requests are answered."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperloader.serving.inputs import Input
from hyperloader.serving.predictor import Predictor, Question
from hyperloader.serving.tagger import word_splits
from hyperloader.training.saved_run import load_run, tasks_of


@dataclass(frozen=True, eq=False)
class Version:
    """A run as it was loaded. name: the server's for it. number: how often it has been loaded."""

    name: str
    folder: Path
    predictor: Predictor
    number: int = 1


def load_version(name: str, folder: Path, tokenize: str, number: int = 1) -> Version:
    """The run in a folder, loaded and tried once with every task that answers a text.

    Raises:
        FileNotFoundError, ValueError: no run, a damaged one, or one that cannot answer.
    """
    run = load_run(folder)
    splits = word_splits(run, folder, tokenize)
    kinds = run.kinds
    for task in run.tasks:
        if task not in kinds:
            splits[task]("")  # reads its rule now
    predictor = Predictor(run, splits)
    tried = [task for task in run.tasks if task not in kinds or not kinds[task].written]
    inputs = {task: Input(1, "a", None, {}, "a" if task in kinds and kinds[task].pair else None) for task in tried}
    predictor.answers([Question(task, given) for task, given in inputs.items()])
    return Version(name, folder, predictor, number)


class Registry:
    """Which version of which run answers a task.

    Args:
        folders: of every run, by its name.
        tokenize: how words are found in texts, as for ``Tagger``.

    Raises:
        ValueError: two runs with a task of the same name; and what ``load_version`` raises.
    """

    def __init__(self, folders: Mapping[str, Path], tokenize: str = "words") -> None:
        self._tokenize = tokenize
        self._replacing: asyncio.Lock | None = None
        _run_of_each({name: tasks_of(folder) for name, folder in folders.items()})  # before weights are read
        self.runs = {name: load_version(name, folder, tokenize) for name, folder in folders.items()}
        self.tasks = _by_task(self.runs)

    async def reload(self, name: str) -> Version:
        """Load the run called ``name`` anew; it answers what comes from then on, what is waiting is answered by the one
        before, which stays if anything is wrong with the new one.

        Raises:
            what ``load_version`` raises; ValueError: a task that another run has.
        """
        self._replacing = self._replacing or asyncio.Lock()
        async with self._replacing:
            before = self.runs[name]
            new = await asyncio.get_running_loop().run_in_executor(None, self._next, before)
            runs = {**self.runs, name: new}
            self.tasks = _by_task(runs)
            self.runs = runs
            return new

    def _next(self, before: Version) -> Version:
        others = {name: one.predictor.run.tasks for name, one in self.runs.items() if one is not before}
        _run_of_each({**others, before.name: tasks_of(before.folder)})
        return load_version(before.name, before.folder, self._tokenize, before.number + 1)


def _by_task(runs: Mapping[str, Version]) -> dict[str, Version]:
    tasks = {name: version.predictor.run.tasks for name, version in runs.items()}
    return {task: runs[name] for task, name in _run_of_each(tasks).items()}


def _run_of_each(tasks: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Of every task the run that has it; raises ``ValueError`` for a task of two."""
    found: dict[str, str] = {}
    for run, names in tasks.items():
        for task in names:
            if task in found:
                raise ValueError(
                    f"tasks must each be of one run, got {task!r} in {found[task]!r} and {run!r}; serve one of the "
                    "two, or rename the task"
                )
            found[task] = run
    return found
