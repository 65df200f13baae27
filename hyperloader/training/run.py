"""Trains a run and scores it."""

import dataclasses
import json
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from hyperloader.checkpoints.atomic import recover, remove_temporary_files, write_files, write_text
from hyperloader.checkpoints.card_file import card_file
from hyperloader.config import MULTI_LABEL, REGRESSION
from hyperloader.data.as_text import AsText
from hyperloader.data.examples import Example, label_counts, target_counts
from hyperloader.data.heads import TEXT_TO_TEXT
from hyperloader.data.kinds import Kind
from hyperloader.data.sentence import DataError
from hyperloader.data.tasks import Task
from hyperloader.model.counting import parameter_counts
from hyperloader.processes import has_begun, is_main_process, join_others, mark_begun, wait_for_others
from hyperloader.training.batches import Batch
from hyperloader.training.compile_time import seconds_compiling
from hyperloader.training.compiling import compile_model, with_wide_labels
from hyperloader.training.evaluation import Scorer
from hyperloader.training.folders import checkpoints, prune
from hyperloader.training.metrics import save_counts
from hyperloader.training.progress import Progress, check_processes
from hyperloader.training.requirements import check_model, check_requirements
from hyperloader.training.run_card import run_card
from hyperloader.training.run_config import RunConfig
from hyperloader.training.run_folder import (
    BEST,
    CONFIG,
    COUNTS,
    KINDS,
    LABELS,
    METRICS,
    check_output,
    own_folder,
    stated,
)
from hyperloader.training.saved_run import Run, build_run, scorer, used_part
from hyperloader.training.task_words import save_words, words_of_tasks
from hyperloader.training.trainer import MultiTaskTrainer
from hyperloader.training.versions import versions
from hyperloader.training.weights import load_weights
from hyperloader.training.word_rules import save_word_rules


def train(
    config: RunConfig,
    resume: bool = False,
    progress: bool = True,
    test: bool = True,
    lines: bool = False,
    on_data: Callable[[Sequence[Task]], None] = lambda tasks: None,
) -> dict:
    """Train, keep the best weights on validation, score them on validation and test.

    Args:
        config: the run. Its ``output`` gets ``config.yaml``, ``labels.json``, ``words.json``, with
            tasks of whole sentences ``kinds.json``, with ``task_condition: description`` ``descriptions.json``,
            ``checkpoint-N``,
            ``best`` and, at the end, ``test.counts.npz`` (``evaluate_sentences`` of the test sets),
            ``metrics.json`` and ``README.md``, its model card, unless there is one that was edited.
        resume: go on from the last complete checkpoint in ``output``, or start if there is none; the end is the same
            to the bit as without the interruption. A finished run gives its metrics at once. Where torchrun starts the
            processes of a run anew (``--max-restarts``) it is resumed in any case.
        progress: show a progress bar.
        test: score the test sets; without, for a search, ``test`` in the metrics is None.
        lines: write a line an evaluation to standard output.
        on_data: called with the tasks when their sentences have been read; not for a finished run.

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
    show = {"progress": progress, "lines": lines}
    resume = resume or has_begun(str(output))
    if (output / METRICS).is_file():
        finished = check_output(config, resume)
        if finished is not None:
            return finished
    join_others()
    if not is_main_process():  # the main process has the folder for all
        wait_for_others()
        return _train(config, test, on_data, lambda: None, **show)
    with own_folder(output) as folder:
        finished = check_output(config, resume)
        if finished is not None:
            return finished
        if (output / CONFIG).is_file():
            recover(output)
            prune(output, config.options.keep_checkpoints)
        else:
            remove_temporary_files(output)
        mark_begun(str(output))
        wait_for_others()
        return _train(config, test, on_data, folder.check, **show)


def _train(
    config: RunConfig,
    test: bool,
    on_data: Callable[[Sequence[Task]], None],
    check_folder: Callable[[], None],
    progress: bool,
    lines: bool,
) -> dict:
    output, compiled_before = Path(config.output), seconds_compiling()
    last = next(reversed(checkpoints(output)), None)
    if last is not None:
        began = RunConfig.from_yaml(output / CONFIG).options
        check_processes(last, config.options, began)
    check_requirements(config)
    check_model(config)
    tasks = config.load_tasks()
    on_data(tasks)
    run, trainer, validate = prepare(config, tasks, check_folder, progress, lines)
    check_folder()
    if trainer.args.should_save:
        kept = dataclasses.replace(stated(config), output=".")  # wherever the folder is moved
        write_text(output / CONFIG, kept.to_yaml())
        save_word_rules(output, {task.name: task.train for task in tasks if task.name not in run.kinds})
        if run.kinds:
            kinds = {task: kind.to_dict() for task, kind in run.kinds.items()}
            write_text(output / KINDS, json.dumps(kinds, ensure_ascii=False, indent=1))
        save_words(output, words_of_tasks(config, tasks))
        write_text(output / LABELS, json.dumps(run.labels, ensure_ascii=False, indent=1))
    if last is not None and Progress.load(last).finished:
        trainer.progress = Progress.load(last)
    else:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    check_folder()
    load_weights(run.model, output / BEST)
    scored = {"validation": validate} | ({"test": scorer(run, tasks, "test")} if test else {})
    autocast = trainer.accelerator.mixed_precision != "no"  # by which scores are others
    known = None if autocast else trainer.best_scores
    with torch.compiler.set_stance("force_eager" if autocast else "default"):  # no graph for the last scores alone
        scores, counts_of_test = scored["test"].with_counts(run.model) if test else (None, None)
        metrics = _metrics(run, trainer, known or validate(run.model), scores)
    metrics["sentences"] = _sentences(config, tasks, scored)
    if config.options.compile:
        metrics["seconds_compiling"] = seconds_compiling() - compiled_before
    check_folder()
    if trainer.args.should_save:
        if counts_of_test:
            save_counts(output / COUNTS, counts_of_test)
        text = json.dumps(metrics, ensure_ascii=False, indent=1)
        write_files({output / METRICS: text.encode()} | card_file(output, run_card(run, metrics)))
    return metrics


def prepare(
    config: RunConfig,
    tasks: Sequence[Task],
    check_folder: Callable[[], None] = lambda: None,
    progress: bool = True,
    lines: bool = False,
) -> tuple[Run, MultiTaskTrainer, Scorer]:
    """A new model for ``config`` on its ``tasks``, what trains it and what scores it on validation."""
    used = used_part(config, {task.name: task.train for task in tasks})
    labels, words = {task.name: task.labels for task in tasks}, words_of_tasks(config, tasks)
    run = build_run(config, labels, _kinds(tasks, used), words)
    if config.options.gradient_checkpointing:
        cast(Any, run.model).gradient_checkpointing_enable()
    if config.options.recompute_norms:
        cast(Any, run.model).recompute_norms()
    collate: Callable[[Sequence[Example]], Batch] = run.formulation.collate
    if config.options.compile:
        compile_model(run.model)
        collate = with_wide_labels(collate) if config.head == TEXT_TO_TEXT else collate
    examples = run.formulation.encode_all(used)
    counts = None
    if run.heads is not None:
        counts = [_label_counts(run, task, examples[task]) for task in run.tasks]
        if config.options.label_prior:
            run.heads.begin_at(counts)
    validate = scorer(run, tasks, "validation")
    trainer = MultiTaskTrainer(
        run.model,
        config.options,
        config.output,
        [examples[task] for task in run.tasks],
        collate,
        validate,
        seed=config.seed,
        data_seed=config.data_seed,
        progress=progress,
        lines=lines,
        counts=None if run.kinds else cast(list, counts),
        causal=run.formulation.text_model.causal if isinstance(run.formulation, AsText) else None,
        check_output=check_folder,
    )
    return run, trainer, validate


def _kinds(tasks: Sequence[Task], used: Mapping[str, list]) -> dict[str, Kind]:
    """The kinds of the tasks of whole sentences, standardised by the sentences ``used``."""
    kinds = {}
    for task in tasks:
        if task.kind.of_sentences:
            try:
                kinds[task.name] = task.kind.standardised(one.label for one in used[task.name])
            except ValueError as error:
                raise DataError(f"task {task.name!r}: {error}; raise fraction") from None
    return kinds


def _label_counts(run: Run, task: str, examples: Sequence[Example]) -> Tensor | None:
    """What the head of a task begins at: see ``TaskHeads.begin_at``."""
    kind = run.kinds.get(task, Kind()).name
    if kind == REGRESSION:
        return None
    return target_counts(examples) if kind == MULTI_LABEL else label_counts(examples, len(run.labels[task]))


def _metrics(run: Run, trainer: MultiTaskTrainer, validation: dict, test: dict | None) -> dict:
    config, progress, (trained, parameters) = run.config, trainer.progress, parameter_counts(run.model)
    return {
        "method": config.method,
        "test": test,
        "validation": validation,
        "trainable_parameters": trained,
        "parameters": parameters,
        "steps": progress.curve[-1]["step"],
        "best_step": progress.best_step,
        "seconds_per_step": trainer.step_times.median() or progress.seconds_per_step,
        "peak_memory_bytes": peak_memory(trainer.args.device),
        "learning_curve": progress.curve,
        "encoding": {task: vars(report) for task, report in run.formulation.report.items()},
        "config": config.to_dict() | {"training": vars(config.options)},
        "versions": versions(trainer.args.device),
    }


def _sentences(config: RunConfig, tasks: Sequence[Task], scored: Mapping[str, Scorer]) -> dict[str, dict[str, int]]:
    """How many sentences of each split of a task the run has trained on, or has ``scored``."""
    trained_on = used_part(config, {task.name: task.train for task in tasks})
    return {
        task: {"train": len(some), **{split: len(scorer.gold[task]) for split, scorer in scored.items()}}
        for task, some in trained_on.items()
    }


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has had at most, of a GPU's memory where it computes there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
