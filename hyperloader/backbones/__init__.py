"""The backbones that a HyperLoader model can be attached to: one file a family, one line a model type.

To add one: a file with ``stacks(backbone) -> list[Stack]`` naming the ``nn.Linear`` of every site, its line in
``FAMILIES`` under the ``model_type`` of its transformers config, and a test with a tiny random model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from hyperloader.backbones import (
    albert,
    bart,
    bert,
    deberta,
    distilbert,
    gpt2,
    llama,
    modernbert,
    mpnet,
    phi3,
    t5,
)
from hyperloader.backbones.compiled import plain_name
from hyperloader.backbones.cross_attention_bias import set_cross_attention_bias
from hyperloader.backbones.family import Stack
from hyperloader.backbones.patterns import stacks_of
from hyperloader.nn.linears import is_linear

__all__ = [
    "FAMILIES",
    "Stack",
    "checkpointing",
    "find_norms",
    "find_stacks",
    "is_checkpointing",
    "set_cross_attention_bias",
]

FAMILIES = {
    "albert": albert.stacks,
    "bart": bart.stacks,
    "bert": bert.stacks,
    "camembert": bert.stacks,
    "deberta-v2": deberta.stacks,  # v3 is of this type too
    "distilbert": distilbert.stacks,
    "electra": bert.stacks,
    "gemma": llama.stacks,
    "gemma2": llama.stacks,
    "gemma3_text": llama.stacks,
    "gpt2": gpt2.stacks,
    "llama": llama.stacks,
    "longt5": t5.stacks,
    "mbart": bart.stacks,
    "mistral": llama.stacks,
    "modernbert": modernbert.stacks,
    "mpnet": mpnet.stacks,
    "mt5": t5.stacks,
    "olmo2": llama.stacks,
    "pegasus": bart.stacks,
    "phi3": phi3.stacks,
    "qwen2": llama.stacks,
    "qwen3": llama.stacks,
    "roberta": bert.stacks,
    "t5": t5.stacks,
    "umt5": t5.stacks,
    "xlm-roberta": bert.stacks,
    "xlm-roberta-xl": bert.stacks,
}


def find_stacks(backbone: nn.Module, sites: Mapping[str, Sequence[str]] | None = None) -> list[Stack]:
    """The stacks of ``backbone``, by the patterns in ``sites`` (see ``hyperloader.backbones.patterns``) if there are
    any; raises ``ValueError`` for a backbone of no known family without, and for what is no plain linear layer."""
    model_type: Any = getattr(getattr(backbone, "config", None), "model_type", None)
    if sites is None and model_type not in FAMILIES:
        raise ValueError(
            f"backbone must be one of the model types {', '.join(FAMILIES)}, got {type(backbone).__name__}"
            f" (model_type {model_type!r}); to add one, name its linear layers with sites in the config: the command "
            "`hyperloader backbones FOLDER` proposes them"
        )
    stacks = FAMILIES[model_type](backbone) if sites is None else stacks_of(backbone, sites)
    for stack in stacks:
        for layer in stack.layers:
            for site, path in layer.items():
                module = backbone.get_submodule(path)
                hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
                if not is_linear(module) or hooked:
                    found = f"{type(module).__name__}{' with hooks' if hooked else ''}"
                    raise ValueError(f"backbone must have a plain nn.Linear at {path} ({site}), got {found}")
    return stacks


def checkpointing(backbone: nn.Module, verb: str) -> Callable:
    """The method that does ``verb`` (enable or disable), under the name that the installed transformers has for it."""
    newer = getattr(backbone, f"activation_checkpointing_{verb}", None)
    return newer or getattr(backbone, f"gradient_checkpointing_{verb}")


def is_checkpointing(backbone: nn.Module) -> bool:
    """Whether gradient checkpointing is enabled."""
    return any(getattr(module, "gradient_checkpointing", False) for module in backbone.modules())


def find_norms(backbone: nn.Module) -> list[str]:
    """Names of the parameters of the backbone's own layer norms."""
    return [
        plain_name(f"{name}.{parameter}")
        for name, module in backbone.named_modules()
        if isinstance(module, nn.LayerNorm) or type(module).__name__.endswith(("LayerNorm", "RMSNorm"))
        for parameter, _ in module.named_parameters(recurse=False)
    ]
