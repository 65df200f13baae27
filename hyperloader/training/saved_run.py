"""Building, loading, scoring and using a run."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from hyperloader.config import HyperLoaderConfig
from hyperloader.data.formulation import Formulation
from hyperloader.data.heads import TOKEN_CLASSIFICATION, make_formulation
from hyperloader.data.kinds import CHAT, Kind, kinds_of_config
from hyperloader.data.labelled_text import LabelledText
from hyperloader.data.tasks import SPLITS, Task, subset
from hyperloader.data.text_readers import AnyText
from hyperloader.data.text_to_text import DECODINGS
from hyperloader.data.wording import TextModel
from hyperloader.data.written_text import WrittenText, make_chat
from hyperloader.json_file import read_json
from hyperloader.model import HyperLoaderModel
from hyperloader.nn.heads import TaskHeads
from hyperloader.processes import join_others
from hyperloader.training.backbone import load_backbone, restore_cross_attention_bias
from hyperloader.training.evaluation import Scorer
from hyperloader.training.methods import TASK_IN_TEXT, build_model
from hyperloader.training.metrics import Counts
from hyperloader.training.run_config import RunConfig
from hyperloader.training.run_folder import BEST, CONFIG, KINDS, LABELS, with_earlier_defaults
from hyperloader.training.tagging import Tagged, tag_sentences
from hyperloader.training.task_words import Words, read_words
from hyperloader.training.text_answers import TextAnswer, answer_texts
from hyperloader.training.weights import load_weights
from hyperloader.validation import check_choice, naming


@dataclasses.dataclass
class Run:
    """A training's model and what is needed to use it.

    ``labels`` are the labels of every task, in the order of the ids; ``kinds`` are those of the tasks of whole
    sentences; ``merged_for`` is the task that the model has been merged for and that alone it predicts, None for all.
    """

    config: RunConfig
    model: nn.Module
    formulation: Formulation
    labels: dict[str, list[str]]
    merged_for: str | None = None
    kinds: Mapping[str, Kind] = dataclasses.field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of their ids."""
        return list(self.labels)

    @property
    def heads(self) -> TaskHeads | None:
        """The heads of an encoder, whatever its method; None for text-to-text."""
        return getattr(self.model, "heads", None)

    @property
    def hyperloader(self) -> HyperLoaderModel | None:
        """The model, if its method is one of those that generate weights; None for ``lora`` and ``full``."""
        return self.model if isinstance(self.model, HyperLoaderModel) else None


def build_run(
    config: RunConfig,
    labels: dict[str, list[str]],
    kinds: Mapping[str, Kind] | None = None,
    words: Words | None = None,
    embed_texts: bool = True,
) -> Run:
    """The run's pretrained backbone with new weights around it; ``kinds`` are those of the tasks of whole sentences,
    ``words`` those that its model reads; ``embed_texts`` as in ``HyperLoaderModel``."""
    kinds = kinds or {}
    backbone, tokenizer = load_backbone(
        config.backbone, config.head, config.backbone_quantization, config.backbone_dtype
    )
    segments = getattr(backbone.config, "type_vocab_size", 0) > 1
    set_seed(config.seed)
    of_heads = labels if config.head == TOKEN_CLASSIFICATION else None
    text_model = None if of_heads else TextModel.of(backbone.config)
    texts = {"tokenizer": tokenizer, "embed_texts": embed_texts} if words else {}
    model = build_model(config.method, backbone, list(labels), of_heads, config.model_options, kinds, words, **texts)
    options = config.options
    answers = (options.max_length, options.decoding, options.valid_tags)
    names = config.method in TASK_IN_TEXT
    formulation = make_formulation(config.head, tokenizer, labels, *answers, kinds, segments, text_model, names)
    run = Run(config, model, formulation, labels, kinds=kinds)
    if config.preset == "published" and run.hyperloader is not None:
        restore_cross_attention_bias(run.hyperloader.backbone, config.backbone)
    return run


def load_run(folder: str | Path, decoding: str | None = None, valid_tags: bool | None = None) -> Run:
    """The run in ``folder`` with its best weights. Its data are not needed.

    Args:
        decoding: how generated text is read, ``sentinel`` or ``position``, if not as the run's config says.
        valid_tags: whether a token classifier predicts the best tags that are BIO, if not as the run's config says.

    Raises:
        FileNotFoundError, ValueError: the folder holds no run, or one whose weights are missing or damaged; a
            decoding that is unknown, or an option that is of no use for the run's head.
    """
    if decoding is not None:
        check_choice("decoding", decoding, DECODINGS)
    folder = Path(folder)
    _check_complete(folder)
    config = with_earlier_defaults(RunConfig.from_yaml(folder / CONFIG))
    of_earlier_versions = {"valid_tags": False} if config.head == TOKEN_CLASSIFICATION else {}
    given = {"decoding": decoding, "valid_tags": valid_tags}
    changes = {key: value for key, value in given.items() if value is not None}
    config = dataclasses.replace(config, training={**of_earlier_versions, **config.training, **changes})
    labels = _read_labels(folder / LABELS)
    words = read_words(folder, config, list(labels))
    run = build_run(config, labels, _read_kinds(folder / KINDS, labels), words, embed_texts=False)
    load_weights(run.model, folder / BEST)
    run.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return run


def tasks_of(folder: str | Path) -> list[str]:
    """Names of the tasks of the run in ``folder``, whose weights are not read; raises as ``load_run`` does."""
    _check_complete(Path(folder))
    return list(_read_labels(Path(folder) / LABELS))


def check_tasks(folder: str | Path, names: Iterable[str]) -> None:
    """Raise ``ValueError`` for a name that is no task of the run in ``folder``, whose weights are not read."""
    known = tasks_of(folder)
    for name in names:
        check_choice("task", name, known, "tasks")


def _check_complete(folder: Path) -> None:
    for name in (CONFIG, LABELS, BEST):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name}: no such file or folder; {folder} must be the output of a run")


def _read_labels(path: Path) -> dict[str, list[str]]:
    labels = read_json(path, "the labels of every task")
    with naming(path):
        HyperLoaderConfig(tasks=list(labels))
        if with_labels := {task: names for task, names in labels.items() if names != []}:
            HyperLoaderConfig(tasks=list(with_labels), labels=with_labels)
    return labels


def _read_kinds(path: Path, labels: Mapping[str, Sequence[str]]) -> dict[str, Kind]:
    """The kinds of the tasks of whole sentences, which a run of tagging alone has no file for."""
    if not path.is_file():
        return {}
    found = read_json(path, "the kinds of tasks")
    with naming(path):
        kinds = {task: Kind.from_dict(values) for task, values in found.items()}
        if with_labels := {task: names for task, names in labels.items() if names}:
            HyperLoaderConfig(tasks=list(with_labels), labels=with_labels, **kinds_of_config(kinds))
    return kinds


def evaluate(
    folder: str | Path,
    split: str = "test",
    tasks: Sequence[str] | None = None,
    decoding: str | None = None,
    valid_tags: bool | None = None,
    limit: int | None = None,
) -> dict:
    """Score the run in ``folder`` on a split of its tasks: ``{"tasks": {task: scores}, "mean_f1": number}``.

    Args:
        split: ``validation`` and ``train`` are the parts that the run has used, ``test`` is all of it, up to ``limit``.
        tasks: names of those to score; all of the run's if None. Of several processes each scores a part of every one,
            and all have the scores.
        decoding, valid_tags: as in ``load_run``.
        limit: as in ``scorer``.
    """
    return evaluate_sentences(folder, split, tasks, decoding, valid_tags, limit)[0]


def evaluate_sentences(
    folder: str | Path,
    split: str = "test",
    tasks: Sequence[str] | None = None,
    decoding: str | None = None,
    valid_tags: bool | None = None,
    limit: int | None = None,
) -> tuple[dict, Counts]:
    """What ``evaluate`` returns, and of every task (sentences, 3) int32: each sentence's spans that are predicted
    rightly, predicted, and there (see ``hyperloader.training.metrics.span_counts``).
    """
    check_choice("split", split, SPLITS)
    join_others()
    check_tasks(folder, tasks or ())
    run = load_run(folder, decoding, valid_tags)
    return scorer(run, run.config.load_tasks(tasks or None), split, limit).with_counts(run.model)


def scorer(run: Run, tasks: Iterable[Task], split: str, limit: int | None = None) -> Scorer:
    """Scores a model on a split of the run's tasks: the part that the run has used, of ``test`` all of it; of that at
    most ``limit`` sentences of every task, a fixed random part, or all if 0; if None what ``eval_sentences`` says."""
    sentences = {task.name: getattr(task, split) for task in tasks}
    if split != "test":
        sentences = used_part(run.config, sentences)
    limit = run.config.options.eval_sentences if limit is None else limit
    if limit:
        sentences = {task: subset(some, min(1, limit / len(some)), 0, task) for task, some in sentences.items()}
    return Scorer(run.formulation, sentences, run.config.options.eval_batch_size)


def used_part(config: RunConfig, sentences: Mapping[str, list]) -> dict[str, list]:
    """Of every task's sentences those that the run uses, ``config.fraction`` of them."""
    return {task: subset(some, config.fraction, config.data_seed, task) for task, some in sentences.items()}


def predict(run: Run, sentences: Iterable[Any], task: str, batch_size: int = 64) -> Iterator[Any]:
    """BIO tags of ``sentences`` (each a list of words), one list each, in their order; of a task of whole sentences the
    label, labels or value of each text, or pair of texts; of one whose answer is text, that to each source, prompt or
    list of messages.

    Sentences are taken ``batch_size`` at a time, so that endless input works; ``task`` is checked before the first.
    """
    if task in run.kinds and run.kinds[task].written:
        asked = (_asked_text(run, task, number, one) for number, one in enumerate(sentences, 1))
        return (one.label for one in answer(run, asked, task, batch_size))
    if task in run.kinds:
        pairs = ((one, None) if isinstance(one, str) else (one[0], one[1]) for one in sentences)
        texts = (LabelledText(text, text_pair, None) for text, text_pair in pairs)
        return (one.label for one in answer(run, texts, task, batch_size))
    return (one.tags for one in tag(run, sentences, task, batch_size))


def _asked_text(run: Run, task: str, number: int, one: Any) -> AnyText:
    if run.kinds[task].name == CHAT:
        return make_chat(one, task, number, labelled=False)
    return WrittenText(one, None, task, number)


def answer(run: Run, texts: Iterable[AnyText | None], task: str, batch_size: int = 64) -> Iterator[TextAnswer]:
    """The answer of a task of whole sentences to each text, None for an empty one, which has none."""
    return answer_texts(run.model, run.formulation, *_asked(run, task), texts, batch_size)


def tag(run: Run, sentences: Iterable[Sequence[str]], task: str, batch_size: int = 64) -> Iterator[Tagged]:
    """``predict`` with the probability of every word's label; a sentence without words gets an answer without tags."""
    task_id, merged = _asked(run, task)
    if task in run.kinds:
        raise ValueError(f"task must be one of tagging, got {task!r}, a {run.kinds[task].name}: call predict")
    return tag_sentences(run.model, run.formulation, task_id, sentences, batch_size, merged=merged)


def _asked(run: Run, task: str) -> tuple[int, bool]:
    """The id of ``task``, and whether the model is merged; raises ``ValueError`` unless it serves that task."""
    check_choice("task", task, run.tasks, "tasks")
    if run.merged_for not in (None, task):
        raise ValueError(f"task must be {run.merged_for!r}, for which the run's model is merged, got {task!r}")
    return run.tasks.index(task), run.merged_for is not None


def for_task(run: Run, task: str) -> Run:
    """The run with its model merged for ``task``, which is all that it can predict then, and faster."""
    check_choice("task", task, run.tasks, "tasks")
    if run.hyperloader is None:
        return run
    return dataclasses.replace(run, model=run.hyperloader.eval().merge(task, inplace=True), merged_for=task)
