"""Sequence labelling as text-to-text: sentinels before the words, simplified BIO as the target."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hyperloader.data.bio import restore, simplify, spans
from hyperloader.data.examples import EncodingReport, Example, check_task_names
from hyperloader.data.formulation import Answer, Tagging
from hyperloader.data.sentence import Sentence
from hyperloader.data.windows import split_windows
from hyperloader.data.written_rows import GREEDY
from hyperloader.nn.loss import IGNORED
from hyperloader.validation import check_choice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DECODINGS = ("sentinel", "position")
_SENTINEL = re.compile(r"<extra_id_([0-9]{1,6})>")


def parse_target(text: str, length: int) -> list[str]:
    """The simplified tags of ``length`` words from a decoded target, whatever it holds.

    The tag of word i is the first word between ``<extra_id_i>`` and the next sentinel; where a sentinel comes twice,
    its first place counts, and a missing one gives ``O``. Everything after ``</s>``, and every ``<pad>``, is left out.
    """
    pieces = _SENTINEL.split(text.split("</s>")[0].replace("<pad>", " "))
    tags: list[str | None] = [None] * length
    for number, tag in zip(map(int, pieces[1::2]), pieces[2::2], strict=True):
        if number < length and tags[number] is None:
            words = tag.split()
            tags[number] = words[0] if words else "O"
    return ["O" if tag is None else tag for tag in tags]


def parse_by_position(text: str, length: int) -> list[str]:
    """The simplified tags of ``length`` words from a decoded target without its sentinels: tag i is its word i.

    This is how the published results were read. What is missing is ``O``, what is too much is cut; where a tag was left
    out or written as two words, all tags behind it move to another word.
    """
    tags = text.split()[:length]
    return tags + ["O"] * (length - len(tags))


class TextToText(Tagging):
    """Encodes sentences for a text-to-text model (T5 and its kin), and decodes what it generates.

    The source is ``<extra_id_0> show <extra_id_1> flights <extra_id_2> </s>``: a sentinel before every word and one
    after the last, so that 100 sentinels hold 99 words. The target is the same with simplified tags in the place of
    words: ``<extra_id_0> O <extra_id_1> O <extra_id_2> </s>``. Words and tags are tokenized each on its own, as after a
    space; a word that is spelled like a special token becomes the unknown token.

    Longer sentences become several windows, each numbered from ``<extra_id_0>``. Within a window that begins inside a
    span the rest of the span is ``I``, as it would be without the border: the windows' tags one after the other are the
    sentence's tags, so that gold tags come back exactly wherever the borders lie. A window read on its own must start
    its span anew, with ``O`` for that ``I``.

    Args:
        tokenizer: a tokenizer with the sentinels ``<extra_id_0>``, ``<extra_id_1>``, …
        tasks: the task names; their order gives the task ids.
        max_length: tokens that source and target hold at most.
        decoding: how a generated target is read: ``sentinel``, see ``parse_target``, or ``position``, see
            ``parse_by_position``.

    With ``use_tags``, for training, the target keeps to ``max_length`` too, and no border cuts a span that is shorter
    than a window. Without, a target may be longer than ``max_length`` (``long_targets`` in the report). Encoding raises
    ValueError for a type that simplified BIO or the tokenizer cannot spell, and for a tag longer than ``max_length``.

    Raises:
        ValueError: the tokenizer has fewer than two sentinels or no end or padding token; no task or one twice;
            ``max_length`` leaves no room for a word; an unknown ``decoding``.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        tasks: Sequence[str],
        max_length: int = 128,
        decoding: str = "sentinel",
    ) -> None:
        check_choice("decoding", decoding, DECODINGS)
        self.decoding = decoding
        self.tokenizer = tokenizer
        self.tasks = check_task_names(tasks)
        self.sentinels = _sentinel_ids(tokenizer)
        for name in ("eos_token_id", "pad_token_id"):
            if getattr(tokenizer, name) is None:
                raise ValueError(f"tokenizer must have {name}, got {type(tokenizer).__name__} without")
        if max_length < 4:  # sentinel, a word's token, sentinel, end
            raise ValueError(f"max_length must be at least 4, got {max_length}")
        self.max_length = max_length
        self.max_words = len(self.sentinels) - 1
        self.report = {task: EncodingReport() for task in self.tasks}
        self._special = {*tokenizer.all_special_ids, *self.sentinels}
        self._words: dict[str, tuple[int, ...]] = {}
        self._tags: dict[str, tuple[int, ...]] = {}

    def _encode(self, task_id: int, sentences: Sequence[Sentence], first_id: int, use_tags: bool) -> list[Example]:
        simple_tags = []
        for number, sentence in enumerate(sentences, first_id):
            try:
                simple_tags.append(simplify(sentence.tags))
            except ValueError as error:
                raise ValueError(f"task {self.tasks[task_id]!r}, sentence {number + 1}: {error}") from None
        self._learn_words(word for sentence in sentences for word in sentence.tokens)
        self._learn_tags(tag for tags in simple_tags for tag in tags)
        examples = []
        for number, (sentence, tags) in enumerate(zip(sentences, simple_tags, strict=True), first_id):
            examples += self._windows(task_id, number, sentence, tags, use_tags)
        return examples

    def _windows(
        self, task_id: int, sentence_id: int, sentence: Sentence, tags: list[str], use_tags: bool
    ) -> list[Example]:
        report = self.report[self.tasks[task_id]]
        room = self.max_length - 2  # the closing sentinel and the end token
        words = [self._words[word] for word in sentence.tokens]
        targets = [self._tags[tag] for tag in tags]
        lengths, target_lengths = [1 + len(ids) for ids in words], [1 + len(ids) for ids in targets]
        over_words = len(words) > self.max_words
        over_tokens = sum(lengths) > room or (use_tags and sum(target_lengths) > room)
        windows = [slice(0, len(words))]
        if over_words or over_tokens:
            if use_tags and max(target_lengths) > room:
                raise ValueError(
                    f"max_length must be at least {max(target_lengths) + 2} for the tags of task "
                    f"{self.tasks[task_id]!r}, got {self.max_length}"
                )
            keep = [(first, after) for _, first, after in spans(sentence.tags)] if use_tags else []
            written = target_lengths if use_tags else None
            windows = split_windows(lengths, self.max_words, room, target_lengths=written, keep=keep)
            words = [ids[: room - 1] for ids in words]
        examples = [
            Example(
                task_id,
                sentence_id,
                number,
                len(windows),
                self._with_sentinels(words[window]),
                self._with_sentinels(targets[window]),
                window.stop - window.start,
            )
            for number, window in enumerate(windows)
        ]
        report.sentences += 1
        report.words += len(words)
        report.windows += len(windows)
        report.over_words += over_words
        report.over_tokens += over_tokens
        report.count_parts(windows, sentence.tags, lengths, room)
        report.no_subwords += lengths.count(1)
        report.long_targets += sum(len(example.labels) > self.max_length for example in examples)
        return examples

    def _with_sentinels(self, parts: Sequence[Sequence[int]]) -> tuple[int, ...]:
        ids = []
        for sentinel, part in zip(self.sentinels, parts, strict=False):
            ids.append(sentinel)
            ids += part
        return (*ids, self.sentinels[len(parts)], self.tokenizer.eos_token_id)

    def _learn_words(self, words: Iterable[str]) -> None:
        new = list({word: None for word in words if word not in self._words})
        if not new:
            return
        unknown = self.tokenizer.unk_token_id
        for word, ids in zip(new, self._tokenize(new), strict=True):
            known = (unknown if number in self._special else number for number in ids)
            self._words[word] = tuple(number for number in known if number is not None)

    def _learn_tags(self, tags: Iterable[str]) -> None:
        new = list({tag: None for tag in tags if tag not in self._tags})
        if not new:
            return
        rows = self._tokenize(new)
        for tag, text in zip(new, self._text([self._with_sentinels([row]) for row in rows]), strict=True):
            if parse_target(text, 1) != [tag]:
                raise ValueError(f"the type {tag!r} cannot be spelled by the tokenizer, it becomes {text!r}; rename it")
        self._tags.update(zip(new, map(tuple, rows), strict=True))

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def _text(self, rows: Iterable[Sequence[int]]) -> list[str]:
        return self.tokenizer.batch_decode(
            [list(row) for row in rows], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def ask(self, model: Any, inputs: Mapping[str, Tensor], examples: Sequence[Example]) -> list[Answer]:
        """The token ids that the model generates greedily, at most ``max_length`` of them."""
        rows = model.generate(**inputs, max_new_tokens=self.max_length, **GREEDY).tolist()
        end = self.tokenizer.eos_token_id  # with which BART's decoder begins, too
        return [Answer(row[1:] if row[:1] == [end] else row, None) for row in rows]

    def _tags_of_windows(self, examples: Sequence[Example], rows: Sequence[Sequence[int]]) -> list[list[str]]:
        if self.decoding == "position":
            parse, dropped = parse_by_position, {IGNORED, *self._special}
            rows = [[number for number in row if number not in dropped] for row in rows]
        else:
            parse, pad = parse_target, self.tokenizer.pad_token_id
            rows = [[pad if number == IGNORED else number for number in row] for row in rows]
        texts = self._text(rows)
        return [parse(text, example.word_count) for text, example in zip(texts, examples, strict=True)]

    def _to_bio(self, tags: list[str]) -> list[str]:
        return restore(tags, len(tags))


def _sentinel_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids of ``<extra_id_0>``, ``<extra_id_1>``, … as far as the tokenizer has them."""
    vocabulary = tokenizer.get_vocab()
    sentinels: list[int] = []
    while f"<extra_id_{len(sentinels)}>" in vocabulary:
        sentinels.append(vocabulary[f"<extra_id_{len(sentinels)}>"])
    if len(sentinels) < 2:
        raise ValueError(f"tokenizer must have sentinels from <extra_id_0> on, got {len(sentinels)} of them")
    return sentinels
