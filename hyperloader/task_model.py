"""One task's model, with nothing left to generate: LoRA updates are part of the weights, adapters have their own."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperloader.attach import replace
from hyperloader.checkpoint import replace_files
from hyperloader.config import ADAPTER_SITES, HyperLoaderConfig
from hyperloader.nn.adapted import AdaptedLinear
from hyperloader.nn.heads import TaskHeads, classify, task_heads
from hyperloader.nn.layout import ADAPTER_WEIGHTS, SiteWeights

TENSORS, DESCRIPTION, BACKBONE, GENERATION = "model.safetensors", "task.json", "config.json", "generation_config.json"
_FORMAT = 1


class TaskModel(nn.Module):
    """What ``HyperLoaderModel.merge`` returns: a backbone that has been adapted to one task.

    It is called as the model was, without ``task``. ``task`` is the task's name and ``labels`` its labels, None for
    text-to-text.
    """

    def __init__(self, backbone: nn.Module, config: HyperLoaderConfig, heads: TaskHeads | None):
        super().__init__()
        (self.task,) = config.tasks
        self.labels = None if config.labels is None else config.labels[self.task]
        self.hyperloader_config = config
        self.backbone = backbone
        self.heads = heads

    @property
    def config(self) -> Any:
        """The backbone's transformers config."""
        return self.backbone.config

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **backbone_arguments: Any,
    ) -> Any:
        """As ``HyperLoaderModel.forward`` with this task; raises ``ValueError`` where another one is asked for."""
        self._check_task(backbone_arguments)
        if self.heads is None and labels is not None:
            backbone_arguments["labels"] = labels
        outputs = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **backbone_arguments)
        return outputs if self.heads is None else classify(self.heads, outputs, labels, 0, widest=False)

    def generate(self, input_ids: Tensor | None = None, **generate_arguments: Any) -> Any:
        """The backbone's ``generate``."""
        self._check_task(generate_arguments)
        return self.backbone.generate(input_ids=input_ids, **generate_arguments)

    def _check_task(self, arguments: dict) -> None:
        if "task_ids" in arguments or arguments.pop("task", self.task) != self.task:
            raise ValueError(f"this model serves task {self.task!r} alone: call it without task and task_ids")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the whole model to ``folder``: ``model.safetensors``, ``task.json``, the backbone's ``config.json``."""
        import safetensors.torch

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {name for name, _ in self.named_parameters()} | {name for name, _ in self.named_buffers()}  # tied: once
        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items() if name in names
        }
        content = safetensors.torch.save(tensors)
        description = {
            "format": _FORMAT,
            "sha256": hashlib.sha256(content).hexdigest(),
            "class": type(self.backbone).__name__,
            "config": self.hyperloader_config.to_dict(),
            "adapted": {
                path: [len(module.down_bias), len(module.up_bias)]
                for path, module in self.backbone.named_modules()
                if isinstance(module, AdaptedLinear)
            },
        }
        text = json.dumps(description, ensure_ascii=False, indent=1)
        files = {TENSORS: content, DESCRIPTION: text.encode(), BACKBONE: self.config.to_json_string().encode()}
        if getattr(self.backbone, "generation_config", None) is not None:
            files[GENERATION] = self.backbone.generation_config.to_json_string().encode()
        replace_files({folder / name: data for name, data in files.items()})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "TaskModel":
        """Load what ``save_pretrained`` wrote, in evaluation mode; nothing else is needed.

        Raises:
            FileNotFoundError, ValueError: a missing, truncated or foreign file.
        """
        import safetensors.torch
        import transformers

        folder = Path(folder)
        for name in (TENSORS, DESCRIPTION, BACKBONE):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name}: no such file; a task's model has it")
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if description.get("format") != _FORMAT:
            raise ValueError(f"{folder / DESCRIPTION}: not the description of a task's model of format {_FORMAT}")
        content = (folder / TENSORS).read_bytes()
        if hashlib.sha256(content).hexdigest() != description["sha256"]:
            raise ValueError(f"{folder / TENSORS}: truncated, changed, or not the file that {DESCRIPTION} describes")
        kind = getattr(transformers, description["class"], None)
        if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
            raise ValueError(
                f"{folder / DESCRIPTION}: backbone class {description['class']!r} is none of transformers'"
            )
        tensors = safetensors.torch.load(content)
        config = HyperLoaderConfig.from_dict(description["config"])
        backbone = kind(kind.config_class.from_json_file(folder / BACKBONE))
        if (folder / GENERATION).is_file():
            backbone.generation_config = transformers.GenerationConfig.from_pretrained(folder)
        for path, (bottleneck, hidden) in description["adapted"].items():
            replace(
                backbone, path, AdaptedLinear(backbone.get_submodule(path), _empty(config, bottleneck, hidden), config)
            )
        heads = None if config.labels is None else task_heads(backbone, config.labels)
        model = cls(backbone, config, heads)
        by_name = dict(model.named_parameters()) | dict(model.named_buffers())
        wanted = {name for name in model.state_dict() if name in by_name}
        missing, extra = sorted(wanted - tensors.keys()), sorted(tensors.keys() - wanted)
        if missing or extra:
            raise ValueError(
                f"{folder / TENSORS}: tensors missing: {', '.join(missing) or 'none'}; extra: "
                f"{', '.join(extra) or 'none'}"
            )
        for name, tensor in tensors.items():
            if tensor.shape != by_name[name].shape:
                wanted = tuple(by_name[name].shape)
                raise ValueError(f"{folder / TENSORS}: {name} must have shape {wanted}, got {tuple(tensor.shape)}")
        with torch.no_grad():
            for name, tensor in tensors.items():  # in the dtype that they were saved in
                by_name[name].data = tensor
        return model.eval()


def merge(
    backbone: nn.Module,
    sites: dict[str, tuple[str, SiteWeights]],
    config: HyperLoaderConfig,
    heads: TaskHeads | None,
    inplace: bool,
) -> tuple[TaskModel, dict[str, nn.Module]]:
    """Put one task's weights in the place of the wrapped layers.

    Args:
        backbone: as attached; copied unless ``inplace``.
        sites: path of a wrapped layer -> its site and what was generated for it.
        config: of this task alone.
        heads: this task's, or None.

    Returns:
        the model, and the wrapped layers by path, which undo it.
    """
    if not inplace:
        backbone = copy.deepcopy(backbone)
    wrapped = {path: backbone.get_submodule(path) for path in sites}
    merged = {}
    for path, (site, tensors) in sites.items():
        linear = wrapped[path].linear
        if site in ADAPTER_SITES:
            merged[path] = AdaptedLinear(linear, tensors, config)
        else:
            merged[path] = _folded(linear, *tensors, config.scaling)
    for path, module in merged.items():
        replace(backbone, path, module.train(backbone.training))
    model = TaskModel(backbone, config, heads)
    return model.train(backbone.training), wrapped


@torch.no_grad()
def _folded(linear: nn.Linear, lora_A: Tensor, lora_B: Tensor, scaling: float) -> nn.Linear:
    """A copy with weight + scaling · lora_B lora_A, summed in float32 at least."""
    folded = copy.deepcopy(linear)
    wide = torch.promote_types(linear.weight.dtype, torch.float32)
    update = scaling * (lora_B.to(wide) @ lora_A.to(wide))
    folded.weight.copy_(linear.weight.to(wide) + update)
    return folded


def _empty(config: HyperLoaderConfig, bottleneck: int, hidden: int) -> SiteWeights:
    """Memory for an adapter's weights."""
    norms = {"none": 0, "post": 2, "pre": 2, "both": 4}[config.norm]
    shapes = [(bottleneck, hidden), (bottleneck,), (hidden, bottleneck), *[(hidden,)] * (1 + norms)]
    return tuple(torch.empty(shape) for shape in shapes[: len(ADAPTER_WEIGHTS)])
