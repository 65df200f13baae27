"""Tasks of any kind for a model that writes text: what it reads and writes, and what that answers."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hyperloader.config import CLASSIFICATION, TAGGING
from hyperloader.data.chat import ChatTemplate
from hyperloader.data.examples import EncodingReport, Example, check_task_names, collate, join_windows
from hyperloader.data.formulation import Answer, Formulation
from hyperloader.data.inline_tags import inline_windows, read_inline
from hyperloader.data.kinds import CHAT, COMPLETION, Kind
from hyperloader.data.label_tree import LabelTree, label_probabilities
from hyperloader.data.labelled_text import LabelledText, check_pair
from hyperloader.data.sentence import DataError, Sentence
from hyperloader.data.text_to_text import TextToText
from hyperloader.data.wording import TextModel, Wording
from hyperloader.data.written_rows import following, padded_left, rows_of, write
from hyperloader.data.written_text import Chat, WrittenText
from hyperloader.nn.loss import IGNORED
from hyperloader.validation import naming

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS = 256  # beginnings of labels that are computed together, at most
Ids = Sequence[int]


class AsText(Formulation):
    """Encodes examples of every kind for a model that writes text, and reads what it writes.

    A decoder reads ``source ->`` and writes `` target`` and the end token; a completion follows its prompt as it is,
    and a chat has the tokenizer's template. An encoder-decoder reads the source and writes the target. The source of
    tagging is the words, the target these with their spans (``hyperloader.data.inline_tags``) or, given ``sentinels``,
    what ``TextToText`` asks; of a classification the text, of a pair ``sentence1: ... sentence2: ...``, and the label.
    Only what is written is labelled.

    Args:
        tokenizer: any of transformers that is fast and has an end token.
        labels: of every task, in the order of the ids; of texts to be written none.
        kinds: those of tasks that are no tagging.
        text_model: the model's shape.
        max_length: tokens that are read, and that are written, at most. Of a source the first ones are kept, of a chat
            to train on all of it counts; a sentence to be tagged gets windows.
        name_tasks: write the task's name before a sentence to be tagged or classified, for a model that is not told it.
        sentinels: how tagging is asked, if not inline.

    Encoding raises ValueError, which begins with the example's place, for a prompt that is longer than ``max_length``
    in training, and otherwise than the model's context.

    Raises:
        ValueError: the tokenizer has no end token; a chat template is missing; labels that are the same to it.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        labels: Mapping[str, Sequence[str]],
        kinds: Mapping[str, Kind],
        text_model: TextModel,
        max_length: int = 128,
        name_tasks: bool = False,
        sentinels: TextToText | None = None,
    ) -> None:
        self.tokenizer, self.text_model, self.max_length = tokenizer, text_model, max_length
        self.wording = Wording(tokenizer, text_model, max_length)
        self.tasks = check_task_names(labels)
        self.labels = {task: list(names) for task, names in labels.items()}
        self.kinds, self.name_tasks, self.sentinels = dict(kinds), name_tasks, sentinels
        self.report = {task: EncodingReport() for task in labels}
        if sentinels is not None:
            self.report |= {task: sentinels.report[task] for task in labels if task not in self.kinds}
        self.chat = ChatTemplate(tokenizer) if any(kind.name == CHAT for kind in self.kinds.values()) else None
        self.ends = [self.wording.end, *([] if self.chat is None else {self.chat.end} - {self.wording.end})]
        self.trees = {task: self._tree(task) for task, kind in self.kinds.items() if kind.name == CLASSIFICATION}

    def _tree(self, task: str) -> LabelTree:
        names = self.labels[task]
        with naming(f"task {task!r}"):
            return LabelTree(names, [self.wording.target(name) for name in names])

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """A batch, as ``hyperloader.data.examples.collate`` makes it."""
        return collate(examples, self.wording.pad_id)

    def gold(self, tasks_sentences: Mapping[str, Sequence]) -> dict[str, list[Example]]:
        """The examples with what is to be written, as in training; ``report`` does not count them."""
        kept = copy.deepcopy(self.report)
        found = self.encode_all(tasks_sentences)
        for task, report in kept.items():
            vars(self.report[task]).update(vars(report))
        return found

    def kind_of(self, task_id: int) -> str:
        """The name of a task's kind."""
        task = self.tasks[task_id]
        return self.kinds[task].name if task in self.kinds else TAGGING

    def _encode(self, task_id: int, sentences: Sequence, first_id: int, use_tags: bool) -> list[Example]:
        kind, report = self.kind_of(task_id), self.report[self.tasks[task_id]]
        if kind == TAGGING and self.sentinels is not None:
            return self.sentinels._encode(task_id, sentences, first_id, use_tags)
        encode: Any = {TAGGING: self._tagging, CLASSIFICATION: self._classification, CHAT: self._chat}
        examples: list[Example] = []
        for number, sentence in enumerate(sentences, first_id):
            found = encode.get(kind, self._written)(task_id, sentence, number, use_tags)
            report.sentences += 1
            report.windows += len(found)
            report.words += sum(len(text.split()) for text in sentence.content)
            examples += found
        return examples

    def _source(
        self,
        task_id: int,
        texts: Sequence[str],
        may_be_cut: Sequence[bool],
        named: bool = False,
        target: int | None = None,
    ) -> list[int]:
        task = self.tasks[task_id]
        named = named and self.name_tasks
        texts, may_be_cut = [f"{task}:"] * named + [*texts], [False] * named + [*may_be_cut]
        source, cut = self.wording.source(texts, may_be_cut, target)
        self.report[task].truncated += cut
        return source

    def _example(
        self, task_id: int, number: int, source: Ids, target: Ids, window: tuple[int, int] = (0, 1), words: tuple = ()
    ) -> Example:
        written = self.wording.cut(target, source)
        self.report[self.tasks[task_id]].cut_targets += len(written) < len(target)
        labels = tuple(written)
        if self.text_model.causal and written:
            source, labels = [*source, *written], (*[IGNORED] * len(source), *written)
        return Example(task_id, number, *window, tuple(source), labels, len(words), words=words)

    def _tagging(self, task_id: int, sentence: Sentence, number: int, use_tags: bool) -> list[Example]:
        name = self.wording.ids(f"{self.tasks[task_id]}:") if self.name_tasks else []
        room = max(1, self.wording.free - len(name))
        windows = inline_windows(sentence, self.wording.length, room, self.report[self.tasks[task_id]], use_tags)
        examples = []
        for place, (words, text) in enumerate(windows):
            source = self._source(task_id, [" ".join(words)], [True], named=True)
            target = self.wording.target(text) if use_tags else ()
            examples.append(self._example(task_id, number, source, target, (place, len(windows)), words))
        return examples

    def _classification(self, task_id: int, one: LabelledText, number: int, use_tags: bool) -> list[Example]:
        task = self.tasks[task_id]
        check_pair(one, self.kinds[task].pair, task)
        texts, may_be_cut = [one.text], [True]
        if one.text_pair is not None:
            texts, may_be_cut = ["sentence1:", one.text, "sentence2:", one.text_pair], [False, True, False, True]
        longest, context = self.trees[task].longest, self.text_model.context
        source = self._source(task_id, texts, may_be_cut, named=True, target=longest)
        if self.text_model.causal and context is not None and len(source) + longest > context:
            raise DataError(
                f"{one.where}: the longest label of task {task!r} has {longest:,} tokens, and the backbone's context "
                f"of {context:,} leaves no room for a text before it; shorten the label"
            )
        if not use_tags:
            beginning = self.trees[task].beginning if self.text_model.causal else []
            return [self._example(task_id, number, [*source, *beginning], ())]
        if one.label not in self.labels[task]:
            raise ValueError(f"label of task {task!r} must be one of its labels, got {one.label!r}")
        return [self._example(task_id, number, source, self.wording.target(str(one.label)))]

    def _written(self, task_id: int, one: WrittenText, number: int, use_tags: bool) -> list[Example]:
        wanted = one.wanted if use_tags and one.wanted is not None else None
        if self.kind_of(task_id) != COMPLETION:
            source = self._source(task_id, [one.given], [True])
            target = [] if wanted is None else self.wording.target(wanted)
        else:
            source = self.wording.prompt(one.given)
            self._check_prompt(source, one, use_tags)
            target = [] if wanted is None else self.wording.completion(wanted)
        return [self._example(task_id, number, source, target)]

    def _chat(self, task_id: int, one: Chat, number: int, use_tags: bool) -> list[Example]:
        template, messages = self.chat, one.messages
        assert template is not None
        try:
            if not use_tags:
                prompt = template.prompt(messages)
                self._check_prompt(prompt, one, use_tags)
                return [self._example(task_id, number, prompt, ())]
            ids, labels = template.encode(messages if one.reply is None else [*messages, one.reply])
        except DataError:
            raise
        except ValueError as error:
            raise DataError(f"{one.where}: {error}") from error
        self.report[self.tasks[task_id]].truncated += len(ids) > self.wording.room
        ids, labels = ids[: self.wording.room], labels[: self.wording.room]
        if all(label == IGNORED for label in labels):
            raise DataError(
                f"{one.where}: the assistant writes nothing in the first {self.wording.room} tokens of the chat; raise "
                "training.max_length, or shorten it"
            )
        return [Example(task_id, number, 0, 1, tuple(ids), tuple(labels), 0)]

    def _check_prompt(self, prompt: Ids, one: WrittenText | Chat, use_tags: bool) -> None:
        context = self.text_model.context
        limit = self.wording.room if use_tags else None if context is None else context - 1
        if limit is not None and len(prompt) > limit:
            whose = "the backbone's context" if limit + 1 == context else "training.max_length"
            raise DataError(
                f"{one.where}: the prompt has {len(prompt):,} tokens, and {whose} leaves room for {limit:,}; shorten it"
                + ("" if limit + 1 == context else ", or raise training.max_length")
            )

    def ask(self, model: Any, inputs: Mapping[str, Tensor], examples: Sequence[Example]) -> list[Answer]:
        """Of a classification the label and all labels' probabilities, else the token ids that the model writes."""
        answers: dict[int, Answer] = {}
        scored = [row for row, one in enumerate(examples) if self.kind_of(one.task_id) == CLASSIFICATION]
        written = [row for row in range(len(examples)) if row not in set(scored)]
        if written:
            some = self._some(inputs, examples, written)
            found = write(model, some, self.text_model, self.wording.pad_id, self.ends, self.max_length)
            answers.update((row, Answer(ids, None)) for row, ids in zip(written, found, strict=True))
        while scored:
            trees = [self.trees[self.tasks[examples[row].task_id]] for row in scored]
            count = max(1, _ROWS // max(tree.width for tree in trees))
            rows, scored, trees = scored[:count], scored[count:], trees[:count]
            some = self._some(inputs, examples, rows)
            logits, go_on = following(model, some, self.text_model, [tree.beginning for tree in trees])
            for row, scores in zip(rows, label_probabilities(trees, logits, go_on), strict=True):
                answers[row] = Answer([max(range(len(scores)), key=scores.__getitem__)], scores)
        return [answers[row] for row in range(len(examples))]

    def _some(
        self, inputs: Mapping[str, Tensor], examples: Sequence[Example], rows: Sequence[int]
    ) -> dict[str, Tensor]:
        some = rows_of(inputs, rows)
        return (
            padded_left(some, [examples[row] for row in rows], self.wording.pad_id) if self.text_model.causal else some
        )

    def decode(self, examples: Sequence[Example], rows: Tensor | Sequence[Sequence]) -> list:
        """Of every sentence strict BIO tags, a label, or the text that was written."""
        rows = rows.tolist() if isinstance(rows, Tensor) else rows
        if len(rows) != len(examples):
            raise ValueError(f"rows must be one row an example ({len(examples)}), got {len(rows)}")
        found: dict[tuple[int, int], Any] = {}
        tagged: dict[int, list[int]] = {}
        for number, (example, row) in enumerate(zip(examples, rows, strict=True)):
            kind, key = self.kind_of(example.task_id), (example.task_id, example.sentence_id)
            found.setdefault(key, None)
            if kind == TAGGING:
                tagged.setdefault(example.task_id, []).append(number)
            elif kind == CLASSIFICATION:
                found[key] = self.labels[self.tasks[example.task_id]][row[0]]
            else:
                found[key] = self._text(row).strip()
        for numbers in tagged.values():
            some = [examples[number] for number in numbers]
            tags = self._tags(some, [rows[number] for number in numbers])
            keys = dict.fromkeys((one.task_id, one.sentence_id) for one in some)
            found |= zip(keys, tags, strict=True)
        return list(found.values())

    def _tags(self, examples: Sequence[Example], rows: Sequence[Ids]) -> list[list[str]]:
        if self.sentinels is not None:
            return self.sentinels.decode(examples, rows)
        parts = [read_inline(self._text(row), one.words) for one, row in zip(examples, rows, strict=True)]
        return join_windows(examples, parts)

    def _text(self, row: Ids) -> str:
        options: Any = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(list(row), **options))
