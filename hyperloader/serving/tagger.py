"""A run's answers in Python: texts in, spans, labels and values out."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hyperloader.checkpoints.hub import local_folder
from hyperloader.data.word_rule import WordRule, split_at_spaces
from hyperloader.serving.entities import entities
from hyperloader.serving.inputs import Input, Split
from hyperloader.serving.predictor import Predictor, Question
from hyperloader.training.publishing import RUN_FILES
from hyperloader.training.saved_run import Run, check_tasks, for_task, load_run
from hyperloader.training.word_rules import load_word_rule
from hyperloader.validation import check_choice, check_whole, held, shown

TOKENIZE = ("words", "spaces")
WINDOW = 1024  # inputs that are sorted by length together
_NAME = "input"  # in messages, with the input's number from 1


class Tagger:
    """Answers texts by the tasks of one run; made by ``from_pretrained``.

    ``tasks`` are their names; ``task`` the only one that may be asked, None for all of the run's.
    """

    def __init__(self, run: Run, splits: Mapping[str, Split], task: str | None = None) -> None:
        self.run = run
        self.tasks = run.tasks if task is None else [task]
        self.predictor = Predictor(run, splits)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_name: str | Path,
        *,
        task: str | None = None,
        tokenize: str = "words",
        revision: str | None = None,
        decoding: str | None = None,
        valid_tags: bool | None = None,
    ) -> "Tagger":
        """The run in a folder, or in a repository of the Hugging Face Hub.

        Args:
            folder_or_name: the output of a training, or ``owner/name``.
            task: the only one that will be asked; a hypernetwork's model is merged for it, which is faster.
            tokenize: how words are found in a text: ``words``, as in the task's training data, or ``spaces``.
            revision: branch, tag or commit on the Hub.
            decoding, valid_tags: as in ``hyperloader.training.saved_run.load_run``.

        Raises:
            FileNotFoundError, ValueError: no such folder or repository, one that holds no run, or a damaged one; an
                unknown task.
        """
        check_choice("tokenize", tokenize, TOKENIZE)
        folder = local_folder(folder_or_name, RUN_FILES, revision)
        check_tasks(folder, [] if task is None else [task])
        run = load_run(folder, decoding, valid_tags)
        if task is not None:
            run = for_task(run, task)
        return cls(run, word_splits(run, folder, tokenize), task)

    def __call__(
        self,
        inputs: Any,
        task: str | Sequence[str] | None = None,
        *,
        aggregation_strategy: str | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Answer one input, a list of them, or what an iterator yields.

        Args:
            inputs: a text, a pair of texts as a tuple, or a dict with ``text``, ``text_pair``, ``tokens`` (words) and
                whatever else, which the answer keeps; a list of these; an iterator of them, of which up to ``WINDOW``
                are read at a time.
            task: a name, or several; None: what a dict says under ``task``, else all of the run's that
                take such an input (a pair, or a single text).
            aggregation_strategy: ``none``, ``simple``, ``first``, ``average`` or ``max``: of tagging the entities, as
                transformers' pipeline ``token-classification`` writes them, in the place of an answer.
            batch_size: inputs in a batch, at most; None leaves that to their lengths.

        Returns:
            For each input its answer, a dict with ``task``, ``text`` and, by the task's kind, ``tokens``, ``tags``,
            ``offsets`` and ``spans``; ``label``, ``score`` and ``scores``; or ``value``. ``start`` and ``end`` of a
            span are characters of the text. With several tasks a dict of answers by the task's name. A list for a list,
            an iterator for an iterator.

        Raises:
            ValueError: an unknown task, an input that is none (named by its number, from 1).
        """
        if batch_size is not None:
            check_whole("batch_size", batch_size)
        answer = self._answers if aggregation_strategy is None else self._entities(aggregation_strategy)
        if isinstance(inputs, str | tuple | Mapping):
            return next(self._answered([inputs], task, answer, batch_size))
        if isinstance(inputs, Iterator):
            if task is not None:
                self._names(task)  # before anything is read
            return self._answered(inputs, task, answer, batch_size)
        if not isinstance(inputs, Iterable):
            raise TypeError(f"inputs must be texts, got {shown(inputs)}")
        return list(self._answered(inputs, task, answer, batch_size))

    def _answers(self, questions: Sequence[Question], batch_size: int | None) -> list:
        return self.predictor.answers(questions, batch_size)

    def _entities(self, strategy: str) -> Callable[[Sequence[Question], int | None], list]:
        return lambda questions, batch_size: entities(self.predictor, questions, strategy, batch_size)

    def _answered(
        self, inputs: Iterable, task: str | Sequence[str] | None, answer: Callable, batch_size: int | None
    ) -> Iterator:
        records = ((number, _record(one, number)) for number, one in enumerate(inputs, 1))
        while window := list(itertools.islice(records, WINDOW)):
            names = [self._names(task, number, record) for number, record in window]
            tasks = [[name] if isinstance(name, str) else name for name in names]
            questions = [
                Question(name, self._read(record, number, name))
                for (number, record), some in zip(window, tasks, strict=True)
                for name in some
            ]
            found = iter(answer(questions, batch_size))
            for name, some in zip(names, tasks, strict=True):
                yield next(found) if isinstance(name, str) else {one: next(found) for one in some}

    def _names(self, task: str | Sequence[str] | None, number: int = 0, record: Mapping | None = None) -> Any:
        """The task of an input, or a list of them."""
        record = record or {}
        task = record.get("task") if task is None else task
        if task is None and len(self.tasks) == 1:
            return self.tasks[0]
        if task is None:
            takes = [one for one in self.tasks if self.predictor.forms[one].takes(record)]
            if not takes:
                has = held(record)
                raise ValueError(f"{_NAME}:{number}: no task takes such an input, which has {has}; name one")
            return takes
        if not isinstance(task, Sequence) or not task:
            raise ValueError(f"task must be a name, or a list of names, got {shown(task)}")
        for name in [task] if isinstance(task, str) else task:
            check_choice("task", name, self.tasks, "tasks")
        return task if isinstance(task, str) else list(task)

    def _read(self, record: dict, number: int, task: str) -> Input:
        found = self.predictor.forms[task].read(record, number, _NAME)
        return replace(found, line=number, given={} if set(record) <= {"text", "text_pair"} else found.given)


def _record(one: Any, number: int) -> dict:
    """An input as a JSON object."""
    if isinstance(one, str):
        return {"text": one}
    if isinstance(one, tuple) and len(one) == 2:
        return {"text": one[0], "text_pair": one[1]}
    if not isinstance(one, Mapping):
        raise ValueError(f"{_NAME}:{number}: an input must be a text, two as a tuple, or a dict, got {shown(one)}")
    return dict(one)


def word_splits(run: Run, folder: Path, tokenize: str = "words") -> dict[str, Split]:
    """Of every task how the words of a text are found; a rule is read when it is first needed."""
    if tokenize == "spaces":
        return dict.fromkeys(run.tasks, split_at_spaces)

    @cache
    def rule(task: str) -> WordRule:
        return load_word_rule(folder, run.config, task)

    def of(task: str) -> Split:
        return lambda text: rule(task).split(text)

    return {task: of(task) for task in run.tasks}
