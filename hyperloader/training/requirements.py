"""What a run needs besides its data, checked before they are read."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch

from hyperloader.backbones.quantization import check_quantization, layers_to_quantize
from hyperloader.config import TAGGING
from hyperloader.data.chat import ChatTemplate
from hyperloader.data.heads import TOKEN_CLASSIFICATION, check_head
from hyperloader.data.kinds import CHAT, COMPLETION, TEXT_TO_TEXT
from hyperloader.data.sentence import DataError
from hyperloader.data.task_file import TaskEntry
from hyperloader.training.arguments import tracker_of
from hyperloader.training.backbone import backbone_path, backbone_without_weights, load_tokenizer
from hyperloader.training.compiling import check_compiler
from hyperloader.training.fsdp import asks_for_fsdp, check_fsdp, layers_to_shard
from hyperloader.training.methods import FIXED_OPTIONS, build_model, check_packages
from hyperloader.training.run_config import RunConfig
from hyperloader.training.task_words import words_of_entries
from hyperloader.validation import naming


def check_requirements(config: RunConfig) -> None:
    """Raise what would stop ``config`` whatever its data are.

    Raises:
        FileNotFoundError: a backbone that is not there.
        ImportError: what the method, its logs, its backbone's quantisation or its compilation need is not installed.
        ValueError: an output that is no folder, float16 without a GPU, what does not go with FSDP.
    """
    if Path(config.output).exists() and not Path(config.output).is_dir():
        raise ValueError(f"output must be a folder, got the file {config.output}")
    backbone_path(config.backbone)
    tracker_of(config.options.report_to)
    check_packages(config.method)
    if asks_for_fsdp():
        check_fsdp(config)
    if config.options.fp16 and not torch.accelerator.is_available():
        half = "" if config.backbone_dtype == "float32" else " and backbone_dtype: bfloat16"
        raise ValueError(f"training.fp16 must be false without a GPU, got true; take bf16{half}")
    if config.backbone_quantization is not None:
        check_quantization(config.backbone_quantization)
    if config.options.compile:
        check_compiler()


def check_model(config: RunConfig) -> None:
    """Raise what building the model of ``config`` would raise: nothing is read but the backbone's config, and no memory
    is taken.

    Raises:
        ValueError: a bad backbone, or one of an unknown family, a model larger than this machine's memory,
            layers that cannot be quantised, or that FSDP cannot shard.
        DataError: something wrong with the task file.
    """
    entries = config.task_entries()
    _check_kinds(config, entries)
    if asks_for_fsdp():
        layers_to_shard(backbone_without_weights(config.backbone, config.head))
    if config.method in FIXED_OPTIONS:
        labels, words = {entry.name: ["O"] for entry in entries}, words_of_entries(config, entries)
        of_heads = labels if config.head == TOKEN_CLASSIFICATION else None
        backbone = backbone_without_weights(config.backbone, config.head)
        if config.backbone_quantization is not None:
            layers_to_quantize(backbone, config.backbone_quantization)
        with torch.device("meta"):
            build_model(config.method, backbone, list(labels), of_heads, config.model_options, words=words)


def _check_kinds(config: RunConfig, entries: Sequence[TaskEntry]) -> None:
    """Raise ``DataError`` for a kind of task that the run's head or backbone cannot do, ``ImportError`` for a package
    that it needs."""
    for entry in entries:
        if entry.kind == TAGGING:
            continue
        with naming(entry.where, DataError):
            check_head(config.head, entry.kind, f"task {entry.name!r}")
            if entry.kind == CHAT:
                ChatTemplate(load_tokenizer(config.backbone, config.head))
        needed = {TEXT_TO_TEXT: [("rouge_score", "rouge-score")], COMPLETION: [], CHAT: []}
        for module, package in needed.get(entry.kind, [("sklearn", "scikit-learn"), ("scipy", "scipy")]):
            if importlib.util.find_spec(module) is None:
                raise ImportError(
                    f"{entry.where}: kind {entry.kind} is scored by {package}, which is not installed; run: pip "
                    f"install {package}"
                )
