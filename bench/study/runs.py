"""Trains the runs of a study, several at a time in processes that stay, and writes one JSON a run."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path

import torch

from bench.study.plan import Planned
from hyperloader.checkpoints.atomic import write_text
from hyperloader.training.headlines import mean_of
from hyperloader.training.run import train
from hyperloader.training.run_folder import COUNTS
from hyperloader.training.saved_run import load_run, scorer

_KEPT = (
    "method", "test", "validation", "trainable_parameters", "parameters", "steps", "best_step", "learning_curve",
    "encoding", "config", "versions",
)  # fmt: skip


def run_all(
    runs: Mapping[str, Planned], results: Path, jobs: int, until: float | None = None, sentences: int | None = None
) -> bool:
    """Train every run that has no JSON in ``results`` yet, ``jobs`` at a time; whether all have one now.

    Args:
        until: the ``time.monotonic()`` at which runs under way are ended, to go on from their last checkpoints the
            next time.
        sentences: score so many validation sentences a task, whatever part of them the run has used.
    """
    waiting = {name: run for name, run in runs.items() if not (results / f"{name}.json").is_file()}
    waiting = dict(sorted(waiting.items(), key=lambda item: -item[1].config.training["steps"]))  # the longest first
    if not waiting:
        return True
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes to come
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin, (threads,)) as pool:
        futures = {pool.submit(run_one, name, run, results, sentences): name for name, run in waiting.items()}
        done, left = wait(futures, None if until is None else until - time.monotonic())
        if left:
            _end(pool, left)
    failed = {futures[future]: future.exception() for future in done if future.exception()}
    if failed:
        raise RuntimeError("; ".join(f"{name}: {error}" for name, error in failed.items()))
    return not left


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)


def _end(pool: ProcessPoolExecutor, left: set[Future]) -> None:
    """End the runs under way where they are; what has not begun does not begin."""
    for future in left:
        future.cancel()
    for process in list((pool._processes or {}).values()):
        os.kill(process.pid, signal.SIGKILL)


def run_one(name: str, run: Planned, results: Path, sentences: int | None = None) -> None:
    """Train ``run``, write its JSON and beside it the counts of every test sentence; where validation is what counts,
    the test sets are not looked at."""
    config, path = run.config, results / f"{name}.json"
    print(f"{name}: {config.training['steps']} steps at {run.rate:g}", flush=True)
    metrics = train(config, resume=Path(config.output).exists(), progress=False, test=run.split == "test")
    if sentences is not None:
        trained = load_run(config.output)
        trained.config = dataclasses.replace(trained.config, fraction=1.0)
        metrics["validation"] = scorer(trained, trained.config.load_tasks(), "validation", sentences)(trained.model)
    kept = {key: metrics[key] for key in _KEPT}
    kept["config"] = portable(kept["config"])
    path.parent.mkdir(parents=True, exist_ok=True)
    if run.split == "test":
        shutil.copyfile(Path(config.output) / COUNTS, results / f"{name}.counts.npz")
    write_text(path, json.dumps(kept, ensure_ascii=False, indent=1))
    print(f"{name}: mean score on {run.split} {100 * mean_of(metrics[run.split]):.2f}", flush=True)


def portable(config: dict) -> dict:
    """A run's config without the folders of the machine that it ran on."""
    tasks = [task["name"] for task in config["tasks"]]
    return {**config, "backbone": Path(config["backbone"]).name, "tasks": tasks, "output": Path(config["output"]).name}
