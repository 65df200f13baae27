"""What a run needs besides its data, checked before they are read."""

from pathlib import Path

import torch

from hyperloader.training.arguments import uses_tensorboard
from hyperloader.training.backbone import backbone_path, backbone_without_weights
from hyperloader.training.methods import FIXED_OPTIONS, build_model, check_packages
from hyperloader.training.run_config import RunConfig


def check_requirements(config: RunConfig) -> None:
    """Raise what would stop ``config`` whatever its data are.

    Raises:
        FileNotFoundError: a backbone that is not there.
        ImportError: a package that the method or its logs need is not installed.
        ValueError: an output that is no folder.
    """
    if Path(config.output).exists() and not Path(config.output).is_dir():
        raise ValueError(f"output must be a folder, got the file {config.output}")
    backbone_path(config.backbone)
    uses_tensorboard(config.options.report_to)
    check_packages(config.method)


def check_model(config: RunConfig) -> None:
    """Raise what building the model of ``config`` would raise: nothing is read but the backbone's config, and no memory
    is taken.

    Raises:
        ValueError: a backbone that is none or of an unknown family, a model larger than this machine's memory.
        DataError: something wrong with the task file.
    """
    if config.method in FIXED_OPTIONS:
        labels = {entry.name: ["O"] for entry in config.task_entries()}
        of_heads = labels if config.head == "token-classification" else None
        backbone = backbone_without_weights(config.backbone, config.head)
        with torch.device("meta"):
            build_model(config.method, backbone, list(labels), of_heads, config.model_options)
