"""Sequence labelling as token classification: the label of a word stands at its first subword."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperloader.data.bio import repair_bio
from hyperloader.data.examples import EncodingReport, Example, check_task_names, pad
from hyperloader.data.formulation import Answer, Tagging
from hyperloader.data.sentence import Sentence
from hyperloader.data.valid_tags import are_valid, best_labels, predecessors
from hyperloader.data.windows import split_windows
from hyperloader.nn.loss import IGNORED
from hyperloader.validation import listed

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase


class TokenClassification(Tagging):
    """Encodes sentences for a token classifier with one head per task, and decodes what it predicts.

    Args:
        tokenizer: any fast tokenizer of transformers (BERT, RoBERTa, SentencePiece, …). A byte-level one must be loaded
            with ``add_prefix_space=True``.
        labels: the labels of every task, ``O`` among them; their order gives the label ids, the mapping's order the
            task ids.
        max_length: tokens a window holds at most, special tokens included.
        valid_tags: answer with the most probable labels of a window among those that are BIO, instead of every word's
            most probable one. A later window may begin inside a span.
        tasks: the names of all tasks, in the order of their ids, where ``labels`` are those of some.

    Windows depend on the words alone, with ``use_tags`` and without: a label may continue a span of the window before.
    Decoding makes a word without tokens ``O``, and an ``I-X`` that continues nothing ``B-X``. Encoding raises
    ValueError for a tag that is no label of its task.

    Raises:
        ValueError: the tokenizer is not fast, lacks a padding token or needs ``add_prefix_space=True``; no task or a
            repeated label; ``max_length`` leaves no room for a word.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        labels: Mapping[str, Sequence[str]],
        max_length: int = 128,
        valid_tags: bool = True,
        tasks: Sequence[str] | None = None,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"tokenizer must be a fast tokenizer, got {type(tokenizer).__name__}")
        if tokenizer.pad_token_id is None:
            raise ValueError(f"tokenizer must have a padding token, got {type(tokenizer).__name__} without one")
        if not _puts_spaces(tokenizer):
            raise ValueError(
                "tokenizer must be loaded with add_prefix_space=True, got False; where transformers ignores that, set "
                "tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True"
            )
        self.tokenizer = tokenizer
        self.tasks = check_task_names(labels if tasks is None else tasks)
        self.labels = {task: list(labels[task]) for task in labels}
        for task, names in self.labels.items():
            if len(set(names)) != len(names) or "O" not in names:
                got = listed(names, "labels")
                raise ValueError(f"labels of task {task!r} must hold 'O' and no label twice, got {got}")
        self.max_length = max_length
        self.room = max_length - tokenizer.num_special_tokens_to_add()
        if self.room < 1:
            raise ValueError(f"max_length must be at least {max_length - self.room + 1}, got {max_length}")
        self.valid_tags = valid_tags
        self.report = {task: EncodingReport() for task in labels}
        ids = {task: self.tasks.index(task) for task in labels}
        self._label_ids = {ids[task]: {name: n for n, name in enumerate(names)} for task, names in self.labels.items()}
        self._follows = {ids[task]: predecessors(names) for task, names in self.labels.items()}

    def _tokenize(self, words: list[list[str]]) -> list["Encoding"]:
        return self.tokenizer(words, is_split_into_words=True, verbose=False).encodings

    def _encode(self, task_id: int, sentences: Sequence[Sentence], first_id: int, use_tags: bool) -> list[Example]:
        examples, report = [], self.report[self.tasks[task_id]]
        encodings = self._tokenize([list(sentence.tokens) for sentence in sentences])
        for sentence_id, (sentence, encoding) in enumerate(zip(sentences, encodings, strict=True), first_id):
            ids, words = encoding.ids, encoding.word_ids
            labels = self._sentence_labels(task_id, sentence)
            report.sentences += 1
            report.words += len(labels)
            if len(ids) <= self.max_length:
                report.windows += 1
                examples.append(self._example(task_id, sentence_id, 0, 1, ids, words, labels))
            else:
                examples += self._encode_long(task_id, sentence_id, sentence, words, labels)
        return examples

    def _sentence_labels(self, task_id: int, sentence: Sentence) -> list[int]:
        known = self._label_ids[task_id]
        try:
            return [known[tag] for tag in sentence.tags]
        except KeyError as error:
            raise ValueError(f"tags of task {self.tasks[task_id]!r} must be among its labels, got {error}") from None

    def _encode_long(
        self, task_id: int, sentence_id: int, sentence: Sentence, words: list[int | None], labels: list[int]
    ) -> list[Example]:
        lengths = [0] * len(sentence.tokens)
        for word in words:
            if word is not None:
                lengths[word] += 1
        windows = split_windows(lengths, len(lengths), self.room)
        report, examples = self.report[self.tasks[task_id]], []
        report.windows += len(windows)
        report.over_tokens += 1
        report.count_parts(windows, sentence.tags, lengths, self.room)
        encodings = self._tokenize([list(sentence.tokens[window]) for window in windows])
        for number, (window, encoding) in enumerate(zip(windows, encodings, strict=True)):
            ids, word_ids = encoding.ids, encoding.word_ids
            excess = len(ids) - self.max_length
            if excess > 0:  # one word longer than the window: its last tokens go, the special tokens stay
                last = max(position for position, word in enumerate(word_ids) if word is not None) + 1
                ids = ids[: last - excess] + ids[last:]
                word_ids = word_ids[: last - excess] + word_ids[last:]
            examples.append(self._example(task_id, sentence_id, number, len(windows), ids, word_ids, labels[window]))
        return examples

    def _example(
        self,
        task_id: int,
        sentence_id: int,
        window: int,
        windows: int,
        ids: list[int],
        word_ids: list[int | None],
        labels: list[int],
    ) -> Example:
        first_subwords, token_labels, previous = [-1] * len(labels), [IGNORED] * len(ids), None
        for position, word in enumerate(word_ids):
            if word is not None and word != previous:
                first_subwords[word] = position
                token_labels[position] = labels[word]
            previous = word
        self.report[self.tasks[task_id]].no_subwords += first_subwords.count(-1)
        return Example(
            task_id, sentence_id, window, windows, tuple(ids), tuple(token_labels), len(labels), tuple(first_subwords)
        )

    def ask(self, model: nn.Module, inputs: Mapping[str, Tensor], examples: Sequence[Example]) -> list[Answer]:
        """The best label of every token, and its probability."""
        return self.read(model(**inputs).logits, examples)

    def read(self, logits: Tensor, examples: Sequence[Example]) -> list[Answer]:
        """The best label of every token, and its probability, from the logits (batch, tokens, columns)."""
        labels = logits.argmax(-1)
        if self.valid_tags:
            labels = self._valid(labels.cpu(), logits, examples).to(logits.device)
        probabilities = logits.float().softmax(-1).gather(-1, labels[..., None])[..., 0]
        return [Answer(*row) for row in zip(labels.tolist(), probabilities.tolist(), strict=True)]

    def _valid(self, labels: Tensor, logits: Tensor, examples: Sequence[Example]) -> Tensor:
        """``labels`` (batch, tokens), with others at the words of examples where they are no BIO."""
        columns = logits.shape[-1]
        tasks = [example.task_id for example in examples]
        follows = torch.stack(
            [
                functional.pad(self._follows[task], (0, 0, 0, columns - len(self._follows[task])), value=-1)
                for task in tasks
            ]
        )
        outside = torch.tensor([self._label_ids[task]["O"] for task in tasks])[:, None]
        continued = torch.tensor([example.window > 0 for example in examples])
        firsts = pad([example.first_subwords for example in examples], -1)  # (batch, words)
        absent, firsts = firsts < 0, firsts.clamp(min=0)
        found = torch.where(absent, outside, labels.gather(1, firsts))
        rows = (~are_valid(found, follows, continued)).nonzero()[:, 0]
        if not len(rows):
            return labels
        of_words = logits[rows.to(logits.device)].cpu().take_along_dim(firsts[rows, :, None], 1)
        is_outside = torch.arange(columns) == outside[rows, :, None]
        of_words = of_words.masked_fill(absent[rows, :, None] & ~is_outside, -torch.inf)
        best = best_labels(of_words, follows[rows], continued[rows])
        row, word = (~absent[rows]).nonzero(as_tuple=True)
        labels[rows[row], firsts[rows][row, word]] = best[row, word]
        return labels

    def _tags_of_windows(self, examples: Sequence[Example], rows: Sequence[Sequence[int]]) -> list[list[str]]:
        return [self._tags(example, row) for example, row in zip(examples, rows, strict=True)]

    def _to_bio(self, tags: list[str]) -> list[str]:
        return repair_bio(tags)

    def _tags(self, example: Example, row: Sequence[int]) -> list[str]:
        names = self.labels[self.tasks[example.task_id]]
        if len(row) < len(example.input_ids):
            raise ValueError(f"a prediction must cover the example's {len(example.input_ids)} tokens, got {len(row)}")
        tags = []
        for position in example.first_subwords:
            label = names.index("O") if position < 0 else int(row[position])
            if not 0 <= label < len(names):
                raise ValueError(f"a predicted label id must be from 0 to {len(names) - 1}, got {label}")
            tags.append(names[label])
        return tags


def _puts_spaces(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether words given one by one are tokenized as in running text; byte-level tokenizers may leave out the
    space.
    """
    return tokenizer(["a", "a"], is_split_into_words=True)["input_ids"] == tokenizer("a a")["input_ids"]
