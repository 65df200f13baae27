"""The model: a frozen backbone with generated weights, and what one task's share of it is on its own."""

from hyperloader.model.hyperloader_model import HyperLoaderModel
from hyperloader.model.task_model import TaskModel

__all__ = ["HyperLoaderModel", "TaskModel"]
