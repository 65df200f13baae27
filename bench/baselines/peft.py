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


def _require():
    if importlib.util.find_spec("peft") is None:
        raise Unavailable("PEFT is not installed: pip install peft")
    import peft

    return peft
