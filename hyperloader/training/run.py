"""Trains a run, scores it, loads it again, predicts with it."""

import dataclasses
import json
import os
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import set_seed

from hyperloader.config import HyperLoaderConfig
from hyperloader.data.tasks import SPLITS, Task, subset
from hyperloader.json_file import read_json
from hyperloader.model import HyperLoaderModel
from hyperloader.model.task_model import TaskModel
from hyperloader.training.backbone import load_backbone, restore_cross_attention_bias
from hyperloader.training.evaluation import Scorer
from hyperloader.training.folders import checkpoints, prune, recover, write_text
from hyperloader.training.methods import build_model
from hyperloader.training.progress import Progress, check_processes
from hyperloader.training.requirements import check_requirements
from hyperloader.training.run_config import RunConfig
from hyperloader.training.run_folder import own_folder
from hyperloader.training.tagging import Tagged, tag_sentences
from hyperloader.training.trainer import MultiTaskTrainer
from hyperloader.training.versions import versions
from hyperloader.training.weights import load_weights
from hyperloader.training.word_rules import save_word_rules
from hyperloader.validation import check_key

__all__ = ["Run", "RunConfig", "evaluate", "for_task", "load_run", "predict", "scorer", "tag", "train"]

CONFIG, METRICS, LABELS, BEST = "config.yaml", "metrics.json", "labels.json", "best"


@dataclasses.dataclass
class Run:
    """A model and what is needed to use it; ``labels`` are the BIO labels of every task, in the order of the ids."""

    config: RunConfig
    model: nn.Module
    tokenizer: object
    formulation: object
    labels: dict[str, list[str]]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of their ids."""
        return list(self.labels)

    @property
    def generates(self) -> bool:
        """Whether the model writes text, and does not label tokens."""
        return self.config.head == "text-to-text"


def train(
    config: RunConfig, resume: bool = False, progress: bool = True, test: bool = True, lines: bool = False
) -> dict:
    """Train, keep the best weights on validation, score them on validation and test.

    Args:
        config: the run. Its ``output`` gets ``config.yaml``, ``labels.json``, ``words.json``, ``checkpoint-N``,
            ``best`` and, at the end, ``metrics.json``.
        resume: go on from the last complete checkpoint in ``output``, or start if there is none; the end is the same
            to the bit as without the interruption. A finished run gives its metrics at once.
        progress: show a progress bar.
        test: score the test sets; without, for a search, ``test`` in the metrics is None.
        lines: write a line an evaluation to standard output.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ValueError: ``output`` holds another run, or a run and ``resume`` is False, or one of another number of
            processes; bad data; a bad config.
        RunFolderError: another run trains in ``output`` now, or it was deleted while this one trained.
        NonFiniteLossError, CheckpointError: training stopped; the last good checkpoint is kept.
    """
    config = RunConfig.from_dict(config.to_dict())  # with paths that hold in every directory
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"output must be a folder, got the file {output}")
    first = os.environ.get("RANK", "0") == "0"  # of several processes the first one has the folder for all
    if not first or (output / METRICS).is_file():
        finished = _check_output(config, output, resume)
        if finished is not None:
            return finished
    if not first:
        return _train(config, output, progress, test, lines, lambda: None)
    with own_folder(output) as folder:
        finished = _check_output(config, output, resume)
        if finished is not None:
            return finished
        if (output / CONFIG).is_file():
            recover(output)
            prune(output, config.options.keep_checkpoints)
        return _train(config, output, progress, test, lines, folder.check)


def _train(config: RunConfig, output: Path, progress: bool, test: bool, lines: bool, check_output: Callable) -> dict:
    for last in checkpoints(output)[-1:]:
        check_processes(last, config.options)
    check_requirements(config)
    tasks = config.load_tasks()
    run = _build(config, {task.name: task.labels for task in tasks})
    options = config.options
    if options.gradient_checkpointing:
        run.model.gradient_checkpointing_enable()
    part = {task.name: subset(task.train, config.fraction, config.data_seed, task.name) for task in tasks}
    examples = run.formulation.encode_all(part)
    validate = scorer(run, tasks, "validation")
    trainer = MultiTaskTrainer(
        run.model,
        options,
        output,
        [examples[task] for task in run.tasks],
        run.formulation.collate,
        validate,
        seed=config.seed,
        data_seed=config.data_seed,
        progress=progress,
        lines=lines,
        check_output=check_output,
    )
    check_output()
    if trainer.args.should_save:
        write_text(output / CONFIG, dataclasses.replace(config, output=".").to_yaml())  # wherever the folder is moved
        save_word_rules(output, {task.name: task.train for task in tasks})
        write_text(output / LABELS, json.dumps(run.labels, ensure_ascii=False, indent=1))
    last = checkpoints(output)[-1] if checkpoints(output) else None
    if last and Progress.load(last).finished:
        trainer.progress = Progress.load(last)
    else:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    check_output()
    load_weights(run.model, output / BEST)
    scores = scorer(run, tasks, "test")(run.model) if test else None
    metrics = _metrics(config, run, trainer, validate(run.model), scores)
    check_output()
    if trainer.args.should_save:
        write_text(output / METRICS, json.dumps(metrics, ensure_ascii=False, indent=1))
    return metrics


def load_run(folder: str | Path, decoding: str | None = None) -> Run:
    """The run in ``folder`` with its best weights. Its data are not needed.

    Args:
        decoding: how generated text is read, ``sentinel`` or ``position``, if not as the run's config says.

    Raises:
        FileNotFoundError, ValueError: the folder holds no run, or one whose weights are missing or damaged; a decoding
            that is unknown or of no use for the run's head.
    """
    folder = Path(folder)
    for name in (CONFIG, LABELS, BEST):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name}: no such file or folder; {folder} must be the output of a run")
    config = RunConfig.from_yaml(folder / CONFIG)
    if decoding is not None:
        config = dataclasses.replace(config, training={**config.training, "decoding": decoding})
    labels = _labels(folder / LABELS)
    run = _build(config, labels)
    load_weights(run.model, folder / BEST)
    run.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return run


def _labels(path: Path) -> dict[str, list[str]]:
    labels = read_json(path, "the labels of every task")
    try:
        HyperLoaderConfig(tasks=list(labels), labels=labels)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return labels


def evaluate(
    folder: str | Path, split: str = "test", tasks: Sequence[str] | None = None, decoding: str | None = None
) -> dict:
    """Score the run in ``folder`` on a split of its tasks: ``{"tasks": {task: scores}, "mean_f1": number}``.

    Args:
        split: ``validation`` and ``train`` are the parts that the run has used, ``test`` is all of it.
        tasks: names of those to score; all of the run's if None.
        decoding: as in ``load_run``.
    """
    check_key("split", split, SPLITS)
    run = load_run(folder, decoding)
    for task in tasks or ():
        check_key("task", task, run.tasks)
    wanted = set(tasks or run.tasks)
    return scorer(run, [task for task in run.config.load_tasks() if task.name in wanted], split)(run.model)


def predict(run: Run, sentences: Iterable[Sequence[str]], task: str, batch_size: int = 64) -> Iterator[list[str]]:
    """BIO tags of ``sentences`` (each a list of words), one list each, in their order.

    Sentences are taken ``batch_size`` at a time, so that endless input works; ``task`` is checked before the first.
    """
    return (one.tags for one in tag(run, sentences, task, batch_size))


def tag(run: Run, sentences: Iterable[Sequence[str]], task: str, batch_size: int = 64) -> Iterator[Tagged]:
    """``predict`` with the probability of every word's label; a sentence without words gets an answer without tags."""
    check_key("task", task, run.tasks)
    if isinstance(run.model, TaskModel) and task != run.model.task:
        raise ValueError(f"task must be {run.model.task!r}, for which the run's model is merged, got {task!r}")
    task_id = run.tasks.index(task)
    return tag_sentences(run.model, run.formulation, task_id, sentences, batch_size, generate=run.generates)


def for_task(run: Run, task: str) -> Run:
    """The run with its model merged for ``task``, which is all that it can predict then, and faster."""
    check_key("task", task, run.tasks)
    if not isinstance(run.model, HyperLoaderModel):
        return run
    return dataclasses.replace(run, model=run.model.eval().merge(task, inplace=True))


def _check_output(config: RunConfig, output: Path, resume: bool) -> dict | None:
    """Check that ``output`` is free or holds this run; the metrics if it is finished."""
    if not (output / CONFIG).is_file():
        if checkpoints(output) or (output / BEST).exists():
            raise ValueError(f"{output}: holds checkpoints but no {CONFIG}; choose another output")
        return None
    if not resume:
        raise ValueError(f"{output}: holds a run already; resume it, remove it or choose another output")
    before = RunConfig.from_yaml(output / CONFIG).to_dict() | {"output": config.output}
    now = config.to_dict()
    changed = [f"{key} ({before[key]!r:.80} there, {now[key]!r:.80} here)" for key in now if now[key] != before[key]]
    if changed:
        raise ValueError(f"{output}: holds another run, which differs in {', '.join(changed)}; choose another output")
    metrics = output / METRICS
    return json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else None


def _build(config: RunConfig, labels: dict[str, list[str]]) -> Run:
    backbone, tokenizer = load_backbone(config.backbone, config.head)
    set_seed(config.seed)
    tagging = config.head == "token-classification"
    model = build_model(config.method, backbone, list(labels), labels if tagging else None, config.model_options)
    if config.preset == "published" and isinstance(model, HyperLoaderModel):
        restore_cross_attention_bias(model.backbone, config.backbone)
    length = config.options.max_length
    if tagging:
        from hyperloader.data.token_classification import TokenClassification

        formulation = TokenClassification(tokenizer, labels, max_length=length)
    else:
        from hyperloader.data.text_to_text import TextToText

        formulation = TextToText(tokenizer, list(labels), max_length=length, decoding=config.options.decoding)
    return Run(config, model, tokenizer, formulation, labels)


def scorer(run: Run, tasks: list[Task], split: str, limit: int | None = None) -> Scorer:
    """Scores a model on a split of the run's tasks: the part that the run has used, of ``test`` all of it; with
    ``limit`` a fixed random part of that, so many sentences of every task."""
    config = run.config
    sentences = {task.name: getattr(task, split) for task in tasks}
    if split != "test":
        sentences = {task: subset(some, config.fraction, config.data_seed, task) for task, some in sentences.items()}
    if limit is not None:
        sentences = {task: subset(some, min(1, limit / len(some)), 0, task) for task, some in sentences.items()}
    return Scorer(run.formulation, sentences, config.options.eval_batch_size, generate=run.generates)


def _metrics(config: RunConfig, run: Run, trainer: MultiTaskTrainer, validation: dict, test: dict | None) -> dict:
    progress, parameters = trainer.progress, list(run.model.parameters())
    cuda = trainer.args.device.type == "cuda"
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "method": config.method,
        "test": test,
        "validation": validation,
        "trainable_parameters": sum(one.numel() for one in parameters if one.requires_grad),
        "parameters": sum(one.numel() for one in parameters),
        "steps": progress.curve[-1]["step"],
        "best_step": progress.best_step,
        "seconds_per_step": trainer.step_times.median() or progress.seconds_per_step,
        "peak_memory_bytes": peak,
        "learning_curve": progress.curve,
        "encoding": {task: vars(report) for task, report in run.formulation.report.items()},
        "config": config.to_dict() | {"training": vars(config.options)},
        "versions": versions(trainer.args.device),
    }
