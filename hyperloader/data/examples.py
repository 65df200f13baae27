"""What both formulations share: an encoded window, what encoding counted, batches, and how windows find together
again.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from hyperloader.data.bio import spans
from hyperloader.data.windows import join
from hyperloader.nn.loss import IGNORED
from hyperloader.validation import check_names

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Example:
    """One window of one sentence, encoded.

    task_id: the task's position in the formulation's list of tasks; sentence_id: the sentence's position in its split.
    window, windows: which window of how many of that sentence.
    input_ids, labels: token ids, and the target's (text-to-text) or one label an input token, -100 where none counts.
    word_count: words of the window. first_subwords: position of every word's first token in input_ids, -1 for a word
    without tokens; empty for text-to-text.
    targets: the number of a regression, standardised, or 1 or 0 for each label of a multi-label task. segments: of
    which text of a pair every token is, where the backbone tells them apart. words: that inline tags are read for.
    """

    task_id: int
    sentence_id: int
    window: int
    windows: int
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    word_count: int
    first_subwords: tuple[int, ...] = ()
    targets: tuple[float, ...] = ()
    segments: tuple[int, ...] = ()
    words: tuple[str, ...] = ()


def label_counts(examples: Iterable[Example], size: int) -> Tensor:
    """How often each of ``size`` labels is met in the examples of a task with a head, (size,) int64."""
    labels = torch.tensor([label for example in examples for label in example.labels if label != IGNORED])
    return torch.bincount(labels.long(), minlength=size)


def target_counts(examples: Sequence[Example]) -> Tensor:
    """How many examples of a multi-label task have each label, and how many have it not, (2, labels) float32."""
    having = torch.tensor([example.targets for example in examples]).sum(0)
    return torch.stack([having, len(examples) - having])


@dataclass
class EncodingReport:
    """What encoding met, summed over the sentences encoded so far.

    sentences, words, windows: how many there were. over_words, over_tokens: sentences with more words, or more tokens,
    than fit in one window (both can hold). split_sentences: those encoded in more than one window. cut_spans: spans
    that a window's border cuts.
    cut_words: words with more tokens than a window, of which the first ones are kept. no_subwords: words for which the
    tokenizer has no token. long_targets: windows whose target is over the limit. truncated: texts of tasks of whole
    sentences with more tokens than the limit, of which the first ones are kept. cut_targets: texts to be written that
    were cut likewise for training.
    """

    sentences: int = 0
    words: int = 0
    windows: int = 0
    over_words: int = 0
    over_tokens: int = 0
    split_sentences: int = 0
    cut_spans: int = 0
    cut_words: int = 0
    no_subwords: int = 0
    long_targets: int = 0
    cut_targets: int = 0
    truncated: int = 0

    def count_parts(self, windows: Sequence[slice], tags: Sequence[str], lengths: Sequence[int], room: int) -> None:
        """Count a sentence in ``windows`` of ``room`` tokens: whether it was split, which spans of its strict BIO tags
        the borders cut, and which of its words, whose tokens are ``lengths``, are longer than a window."""
        borders = [window.start for window in windows[1:]]
        self.split_sentences += bool(borders)
        for _, first, after in spans(tags) if borders else ():
            self.cut_spans += any(first < border < after for border in borders)
        self.cut_words += sum(length > room for length in lengths)


def check_task_names(tasks: Iterable[str]) -> list[str]:
    """The task names as a list. Raises ValueError for none or a repeated one, TypeError for one that is no text."""
    names = list(tasks)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"tasks must be text, got {name!r}")
    if not names:
        raise ValueError("tasks must be at least one name, each once, got none")
    return list(check_names("tasks", names))


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of ids as one int64 tensor (rows, longest), filled on the right."""
    longest = max(map(len, rows))
    return torch.tensor([list(row) + [value] * (longest - len(row)) for row in rows], dtype=torch.long)


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, Tensor]:
    """A batch: int64 tensors ``input_ids``, ``attention_mask`` (batch, tokens), ``labels`` (batch, tokens or target
    tokens; -100 is padding), ``task_ids`` (batch,). The tasks may differ. Where an example has any, also ``targets``
    (batch, numbers) float32, NaN where there is none, and ``token_type_ids`` (batch, tokens). Raises ValueError for an
    empty batch.
    """
    if not examples:
        raise ValueError("examples must hold at least one example, got none")
    input_ids = pad([example.input_ids for example in examples], pad_token_id)
    lengths = torch.tensor([len(example.input_ids) for example in examples])
    batch = {
        "input_ids": input_ids,
        "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
        "labels": pad([example.labels for example in examples], IGNORED),
        "task_ids": torch.tensor([example.task_id for example in examples]),
    }
    most = max(len(example.targets) for example in examples)
    if most:
        rows = [[*example.targets, *[math.nan] * (most - len(example.targets))] for example in examples]
        batch["targets"] = torch.tensor(rows, dtype=torch.float32)
    if any(example.segments for example in examples):
        width = input_ids.shape[1]
        batch["token_type_ids"] = pad([example.segments or (0,) * width for example in examples], 0)
    return batch


def join_windows(examples: Sequence[Example], parts: Sequence[list[_T]]) -> list[list[_T]]:
    """One list a sentence from one list a window; sentences in the order in which they first appear in ``examples``.

    Raises:
        ValueError: not one part an example, a window that is missing or comes twice.
    """
    if len(examples) != len(parts):
        raise ValueError(f"predictions must be one row an example ({len(examples)}), got {len(parts)}")
    sentences: dict[tuple[int, int], dict[int, list[_T]]] = {}
    for example, part in zip(examples, parts, strict=True):
        windows = sentences.setdefault((example.task_id, example.sentence_id), {})
        if example.window in windows:
            raise ValueError(
                f"examples must hold every window once, got window {example.window} of sentence "
                f"{example.sentence_id} of task {example.task_id} twice"
            )
        windows[example.window] = part
    for example in examples:
        got = sentences[example.task_id, example.sentence_id]
        if len(got) != example.windows:
            raise ValueError(
                f"examples must hold all {example.windows} windows of sentence {example.sentence_id} of task "
                f"{example.task_id}, got {len(got)}"
            )
    return [join([windows[number] for number in sorted(windows)]) for windows in sentences.values()]
