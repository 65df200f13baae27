"""What a run needs besides its data, checked before they are read."""

import importlib.util
from pathlib import Path

from hyperloader.training.arguments import wants_tensorboard
from hyperloader.training.backbone import backbone_path
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
    wants_tensorboard(config.options.report_to)
    if config.method == "lora" and importlib.util.find_spec("peft") is None:
        raise ImportError("the method lora needs PEFT, which is not installed; run: pip install peft")
