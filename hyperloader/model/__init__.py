"""The model: a frozen backbone with generated weights, and one task of it as a model of its own."""

from hyperloader.model.hyperloader_model import HyperLoaderModel
from hyperloader.model.task_model import TaskModel

__all__ = ["HyperLoaderModel", "TaskModel"]
