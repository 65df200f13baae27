"""LoRA with Hugging Face's PEFT, where it is installed."""

import importlib.util

import torch
from torch import Tensor, nn

from bench.baselines.models import BaselineModel
from bench.case import Unavailable
from hyperloader import HyperLoaderModel
from hyperloader.config import LORA_SITES


def lora_linear(weight: Tensor, bias: Tensor | None, lora_A: Tensor, lora_B: Tensor) -> tuple[nn.Module, list[Tensor]]:
    """A PEFT model around one frozen linear layer with the given values, and its trained A and B."""
    peft = _require()
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    model = nn.Sequential(linear).to(weight.device, weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    rank = lora_A.shape[0]
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"]))
    wrapped = wrapped.to(weight.dtype)
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter, value in zip(trained, (lora_A, lora_B), strict=True):
            parameter.copy_(value)
    return wrapped, trained


class PeftModel(BaselineModel):
    """LoRA on query and value with weights of its own and no adapters; norms and task heads are trained as in ours."""

    def __init__(self, ours: HyperLoaderModel):
        peft = _require()
        rank = ours.hyperloader_config.rank
        super().__init__(ours)
        paths = [path for stack in self.stacks for site, path in stack.layers[0].items() if site in LORA_SITES]
        names = sorted({path.rpartition(".")[2] for path in paths})
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
        self.backbone = peft.inject_adapter_in_model(config, self.backbone)
        for name, parameter in self.backbone.named_parameters():
            if "lora_" in name:
                self.trained[name] = parameter
        for parameter in self.trained.values():
            parameter.requires_grad_(True)


class PeftTasksModel(BaselineModel):
    """A LoRA of its own for every task, and batches of several tasks by ``adapter_names``.

    Args:
        ours: the model whose backbone and heads are taken.
        as_many_numbers: a rank at which a task's LoRA has as many numbers as ours serves for a task, adapters and LoRA
            (and one more at most of each layer's, since ranks are whole); by default ours LoRA's rank.
    """

    def __init__(self, ours: HyperLoaderModel, as_many_numbers: bool = False):
        peft = _require()
        config = ours.hyperloader_config
        numbers = sum(tensor.numel() for site in ours.weights_of(config.tasks[0]).values() for tensor in site)
        super().__init__(ours)
        paths = [
            path
            for stack in self.stacks for layer in stack.layers for site, path in layer.items()
            if site in config.lora_sites
        ]  # fmt: skip
        layers = [self.backbone.get_submodule(path) for path in paths]
        each = sum(layer.in_features + layer.out_features for layer in layers)
        self.rank = -(-numbers // each) if as_many_numbers else config.rank
        lora = peft.LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=paths)
        self.tasks = [f"task{number}" for number in range(len(config.tasks))]
        self.backbone = peft.get_peft_model(self.backbone, lora, self.tasks[0])
        for task in self.tasks[1:]:
            self.backbone.add_adapter(task, lora)
        self.backbone.eval()

    def forward(self, input_ids: Tensor, which: int | Tensor = 0, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        names = self._names(input_ids, which)
        if self.heads is None:
            return self.backbone(input_ids=input_ids, labels=labels, adapter_names=names).to_tuple()[:2]
        return (self.heads(self.backbone(input_ids=input_ids, adapter_names=names).last_hidden_state, which),)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, which: int | Tensor = 0, **options) -> Tensor:
        return self.backbone.generate(input_ids=input_ids, adapter_names=self._names(input_ids, which), **options)

    def _names(self, input_ids: Tensor, which: int | Tensor) -> list[str]:
        chosen = torch.as_tensor(which).expand(len(input_ids)).tolist()
        return [self.tasks[number] for number in chosen]


def _require():
    if importlib.util.find_spec("peft") is None:
        raise Unavailable("PEFT is not installed: pip install peft")
    import peft

    return peft
