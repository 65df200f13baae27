"""One task's model, in which nothing is generated: LoRA updates are added to the weights, adapters have their own."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperloader.backbones.cross_attention_bias import add_stored_bias
from hyperloader.checkpoints import stored_task
from hyperloader.checkpoints.backbone_config import first_line
from hyperloader.checkpoints.descriptions import config_of
from hyperloader.checkpoints.hub import local_folder
from hyperloader.checkpoints.stored_task import StoredTask
from hyperloader.checkpoints.structure import keep_norms_in_float32, untie
from hyperloader.checkpoints.tensors import check_shapes
from hyperloader.config import HyperLoaderConfig
from hyperloader.model import pretrained
from hyperloader.model.attachment import replace
from hyperloader.model.backbone_wrapper import BackboneWrapper
from hyperloader.model.counting import parameter_counts
from hyperloader.nn.forwards import Forwards
from hyperloader.nn.heads import TaskHeads, task_heads
from hyperloader.nn.layout import adapter_shapes
from hyperloader.nn.linears import sizes_of
from hyperloader.nn.norms import output_dtype
from hyperloader.nn.quantized import check_plain_layers
from hyperloader.nn.sites import AdaptedLinear
from hyperloader.validation import check_whole, listed


class TaskModel(BackboneWrapper):
    """What ``HyperLoaderModel.merge`` returns: a backbone that has been adapted to one task.

    It is called as the model was, without ``task``. ``task`` is the task's name and ``labels`` its labels, None for
    text-to-text.
    """

    unmerged = False  # by ``unmerge``: the backbone is no longer that of this task

    def __new__(cls, backbone: nn.Module | None = None, *_: Any) -> "TaskModel":
        return pretrained.new(cls, backbone)

    def __init__(self, backbone: nn.Module, config: HyperLoaderConfig, heads: TaskHeads | None) -> None:
        nn.Module.__init__(self)
        (self.task,) = config.tasks
        self.labels = None if config.labels is None else config.labels[self.task]
        self.hyperloader_config = config
        self.backbone = backbone
        self.heads = heads
        self._forwards = Forwards()  # merged in place, that of the model whose backbone it is

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        targets: Tensor | None = None,
        **backbone_arguments: Any,
    ) -> Any:
        """As ``HyperLoaderModel.forward`` with this task; raises ``ValueError`` where another one is asked for."""
        self._check_task(backbone_arguments)
        with self._forwards.running():
            self._check_merged()
            outputs = self.run_backbone(
                labels, input_ids=input_ids, attention_mask=attention_mask, **backbone_arguments
            )
        options = {"all_columns": False, "attention_mask": attention_mask, "targets": targets}
        return self.run_heads(outputs, labels, 0, **options)

    def generate(self, input_ids: Tensor | None = None, **generate_arguments: Any) -> Any:
        """The backbone's ``generate``."""
        self._check_task(generate_arguments)
        with self._forwards.running():
            self._check_merged()
            return self.backbone.generate(input_ids=input_ids, **generate_arguments)

    def _check_task(self, arguments: dict) -> None:
        if arguments.pop("task_ids", None) is not None or arguments.pop("task", None) not in (None, self.task):
            raise ValueError(f"this model serves task {self.task!r} alone: call it without task and task_ids")

    def _check_merged(self) -> None:
        if self.unmerged:
            raise RuntimeError(
                f"this model ended with unmerge(), which took {self.task!r} out of its backbone: call merge() again"
            )

    _whole = True

    def _about(self) -> str:
        _, count = parameter_counts(self)
        return f"A whole model of one task, {count:,} parameters: a {{backbone}} with what was generated for it, as in"

    def saved_state(self, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """All that a checkpoint has to hold, what is tied once, from ``state_dict`` if given, else the model's own."""
        state = self.state_dict() if state_dict is None else state_dict
        return {name: state[name] for name in _by_name(self, state)}

    def save_pretrained(
        self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None, is_main_process: bool = True
    ) -> None:
        """Write the whole model to ``folder``: ``model.safetensors``, ``task.json``, the backbone's ``config.json``,
        and a model card, ``README.md``, unless there is one that was edited.

        As transformers' Trainer wants it, ``state_dict`` holds the values instead of this model, and of several
        processes the main one alone writes.

        Raises:
            RuntimeError: merged in place, and taken out again.
            ValueError: a backbone that its class and config do not build again, such as a quantised one, or a folder
                with another model.
        """
        if not is_main_process:
            return
        self._check_merged()
        check_plain_layers(
            self.backbone, "saved", "call merge(..., dequantize=True), or export_task for the task alone"
        )
        tensors = self.saved_state(state_dict)
        structure: dict[str, Any] = {
            "class": type(self.backbone).__name__,
            "without_pooler": getattr(self.backbone, "pooler", self) is None,  # which its class makes by default
            "config": self.hyperloader_config.to_dict(),
            "adapted": {
                path: [len(module.down_bias), len(module.up_bias)]
                for path, module in self.backbone.named_modules()
                if isinstance(module, AdaptedLinear)
            },
            "norms": {
                path: str(dtype).removeprefix("torch.")
                for path, module in self.backbone.named_modules()
                if (dtype := output_dtype(module)) is not None
            },
            "untied": [],
        }
        with torch.device("meta"):
            again = _build(type(self.backbone), structure, copy.deepcopy(self.config), "this model")
            add_stored_bias(again.backbone, tensors)
        of_class = again.state_dict()
        structure["untied"] = sorted(name for name in tensors.keys() - _by_name(again, of_class) if name in of_class)
        untie(again, structure["untied"])
        wanted = _by_name(again, again.state_dict())
        check_shapes("this model, which its backbone's class and config do not build again", tensors, wanted)
        generation = getattr(self.backbone, "generation_config", None)
        generation_text = None if generation is None else generation.to_json_string()
        stored_task.save(folder, structure, tensors, self.config.to_json_string(), generation_text, self._card())

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, revision: str | None = None) -> "TaskModel":
        """Load what ``save_pretrained`` wrote, in evaluation mode; nothing else is needed.

        ``folder`` may be ``owner/name`` on the Hugging Face Hub, ``revision`` a branch, a tag or a commit there.

        Raises:
            FileNotFoundError, ValueError: a missing, truncated or foreign file.
        """
        stored = stored_task.load(local_folder(folder, ("*",), revision, "a folder that save_pretrained wrote"))
        with torch.device("meta"):  # sizes that the tensors have not cost no memory
            shell = _build_stored(stored, copy.deepcopy(stored.backbone_config))
        stored.check(_by_name(shell, shell.state_dict()))
        model = _build_stored(stored, stored.backbone_config)
        if stored.generation_config is not None:
            model.backbone.generation_config = stored.generation_config
        by_name = _by_name(model, model.state_dict())
        with torch.no_grad():
            for name, tensor in stored.tensors.items():  # in the dtype that they were saved in
                by_name[name].data = tensor
        keep_norms_in_float32(model.backbone, stored.structure.get("norms", {}), stored.description)
        return model.eval()


def _by_name(model: TaskModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint holds: every parameter and buffer of the ``state``, what is tied once."""
    found = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor for name, tensor in found.items() if name in state}


def _build_stored(stored: StoredTask, backbone_config: Any) -> TaskModel:
    """A model of the stored structure, with any weights."""
    model = _build(stored.kind, stored.structure, backbone_config, stored.description)
    add_stored_bias(model.backbone, stored.tensors)
    return model


def _build(kind: type, structure: Mapping[str, Any], backbone_config: Any, where: object) -> TaskModel:
    """A model of ``structure``, with any weights."""
    config = config_of(structure["config"], where)
    if len(config.tasks) != 1:
        raise ValueError(f"{where}: config.tasks must name one task, got {listed(config.tasks, 'tasks')}")
    options = {"add_pooling_layer": False} if structure["without_pooler"] else {}
    try:
        backbone = kind(backbone_config, **options)
        backbone.tie_weights()  # which transformers 5.0 leaves out on the device meta
        for path, (bottleneck, hidden) in structure["adapted"].items():
            linear = backbone.get_submodule(path)
            check_whole(f"the bottleneck of {path}", bottleneck)
            _, units = sizes_of(linear)
            if hidden != units:
                sizes = f"a bottleneck and {units} units, got {bottleneck, hidden}"
                raise ValueError(f"the adapter of {path} must have {sizes}")
            weights = tuple(map(torch.empty, adapter_shapes(config, hidden, bottleneck).values()))
            replace(backbone, path, AdaptedLinear(linear, weights, config))
        heads = None if config.labels is None else task_heads(backbone, config.labels, config.kinds)
        model = TaskModel(backbone, config, heads)
        untie(model, structure.get("untied", ()))
    except Exception as error:  # transformers and torch raise anything for wrong sizes and paths
        raise ValueError(f"{where}: describes no {kind.__name__} with adapters: {first_line(error)}") from error
    return model
