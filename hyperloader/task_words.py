"""The words of a task: its labels, its description in one or several phrasings, and those for its labels."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hyperloader.validation import check_names, listed, nearest, shown

_OTHER = "no label: any other word"  # of a tagger's O


def check_no_words(descriptions: Any, label_words: Any) -> None:
    """Raise ``ValueError`` for words of a model that does not read them."""
    for name, value in (("descriptions", descriptions), ("label_words", label_words)):
        if value is not None:
            raise ValueError(f"{name} must be None with task_condition 'name', got {shown(value)}")


def check_descriptions(descriptions: Any, tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``descriptions`` with a tuple of phrasings for each of ``tasks``.

    Raises ``ValueError`` or ``TypeError`` for a task that is missing or unknown, and anything but text.
    """
    _check_tasks("descriptions", "every task to what it is about", descriptions, tasks)
    return {task: phrasings(f"descriptions[{task!r}]", descriptions[task]) for task in tasks}


def phrasings(argument: str, description: Any) -> tuple[str, ...]:
    """A text, or several texts that say the same, as a tuple; raises ``ValueError`` or ``TypeError`` for what is
    none."""
    several = [description] if isinstance(description, str) else description
    if not isinstance(several, Sequence) or not all(isinstance(one, str) for one in several):
        raise TypeError(f"{argument} must be a text or a list of texts, got {shown(description)}")
    if not several or not all(one.strip() for one in several):
        raise ValueError(f"{argument} must not be empty, got {shown(description)}")
    return tuple(several)


def check_label_words(
    label_words: Any, tasks: Sequence[str], names: Mapping[str, Collection[str]] | None
) -> dict[str, dict[str, str]] | None:
    """``label_words`` of ``tasks``, whose labels, or types of spans, are ``names``; None allows any.

    Raises ``ValueError`` or ``TypeError`` for an unknown task or label, and for words that are no text.
    """
    words_of = {} if label_words is None else label_words
    _check_tasks("label_words", "tasks to words for their labels", words_of, tasks, every=False)
    for task, words in words_of.items():
        check_words(f"label_words[{task!r}]", words, None if names is None else names[task])
    return {task: dict(words) for task, words in words_of.items() if words} or None


def check_words(argument: str, words: Any, names: Collection[str] | None) -> None:
    """Raise ``ValueError`` or ``TypeError`` unless ``words`` map labels, of ``names`` if given, to text."""
    if not isinstance(words, Mapping):
        raise TypeError(f"{argument} must map labels to words, got {shown(words)}")
    for name, text in words.items():
        if names is not None and name not in names:
            known = f"labels of the task ({listed(names, 'labels') or 'it has none'})"
            raise ValueError(f"{argument} must hold only {known}, got {shown(name)}{nearest(name, names)}")
        if not isinstance(text, str):
            raise TypeError(f"{argument}[{name!r}] must be text, got {shown(text)}")
        if not text.strip():
            raise ValueError(f"{argument}[{name!r}] must not be empty, got {shown(text)}")


def names_of(labels: Sequence[str], tagging: bool) -> list[str]:
    """What words are for: the types of a tagger's spans, else the labels."""
    return list(dict.fromkeys(label[2:] for label in labels if label != "O")) if tagging else list(labels)


def words_for(name: str, words: Mapping[str, str]) -> str:
    """The words for the label ``name``: those of ``words``, else the name itself with its parts apart."""
    return words.get(name) or _readable(name)


def head_texts(labels: Sequence[str], tagging: bool, words: Mapping[str, str]) -> list[str]:
    """What is embedded for every row of a task's head."""
    if not tagging:
        return [words_for(label, words) for label in labels]
    places = {"B": "first word", "I": "later word"}
    return [
        _OTHER if label == "O" else f"{words_for(label[2:], words)}: {places.get(label[0], label[0])}"
        for label in labels
    ]


def _readable(name: str) -> str:
    """``GET_WEATHER``, ``fromloc.city_name`` and ``PlayMusic`` as words."""
    parts = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return " ".join(re.findall(r"[^\W_]+", parts)).lower() or name


def check_labels(labels: Any, tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``labels`` of every one of the ``tasks``; raises ``ValueError`` or ``TypeError`` for a missing or an unknown
    task, and for anything that is not a list of labels."""
    _check_tasks("labels", "every task to its labels", labels, tasks)
    named = {task: check_names(f"labels[{task!r}]", labels[task]) for task in tasks}
    for task, names in named.items():
        if not names:
            raise ValueError(f"labels[{task!r}] must hold at least one label, got none")
    return named


def _check_tasks(argument: str, what: str, values: Any, tasks: Sequence[str], every: bool = True) -> None:
    """Raise ``TypeError`` unless ``values`` is a mapping (of ``what``), ``ValueError`` for a key that is not in
    ``tasks`` and, if it must have ``every`` task, for one that is missing."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{argument} must map {what}, got {shown(values)}")
    for task in tasks if every else ():
        if task not in values:
            raise ValueError(f"{argument} must hold every task, got none for {task!r}")
    known = set(tasks)
    for task in values:
        if task not in known:
            raise ValueError(f"{argument} must hold only the tasks, got {shown(task)}{nearest(task, tasks)}")
