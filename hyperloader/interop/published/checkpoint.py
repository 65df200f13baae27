"""Reading a whole model of the published code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperloader.backbones import find_stacks
from hyperloader.backbones.cross_attention_bias import NAME, check_cross_attention_bias, set_cross_attention_bias
from hyperloader.checkpoints.tensors import check_shapes, differing, read_pickle
from hyperloader.interop.published.arguments import arguments_of
from hyperloader.interop.published.names import ADAPTER, CONDITION, LORA, norm_modules
from hyperloader.interop.published.sizes import HYPERNETWORK, TASKS, hyperloader_config, t5_class, t5_config
from hyperloader.model import HyperLoaderModel
from hyperloader.validation import A_FEW, listed

FILE = "pytorch_model.bin"
_TRAINED_TASKS = "task_embedding_controller.task_hyper_net."


def load_published_checkpoint(
    path: str | Path,
    backbone: nn.Module | str | None = None,
    *,
    activation: str | None = None,
    train_norms: bool | None = None,
) -> HyperLoaderModel:
    """Read a checkpoint of the published code: hypernetworks and T5, or its HyperFormer++, which has no LoRA.

    Args:
        path: ``pytorch_model.bin``, or its folder. Pickles are read with ``weights_only=True``: no code in them runs.
        backbone: a ``T5ForConditionalGeneration``, whose weights become those of the checkpoint; the name or folder of
            a model, whose config describes a new one; None takes the ``config.json`` beside the file and, without one,
            the sizes of the tensors and what all T5 of version 1.0 have in common.
        activation: of the adapters, which no tensor tells. None reads ``non_linearity`` in ``arguments_results.json``,
            which the published code writes beside the file, or into the folder around a ``checkpoint-...``; without
            one it assumes ``gelu_new`` and warns.
        train_norms: whether T5's own norms are to be trained further; None reads ``unfreeze_layer_norms`` there, or
            assumes True and warns.

    Returns:
        The model, in evaluation mode, with every size read off the tensors and the tasks in the order of the file. The
        bias of the decoder's cross-attention that older T5 have is part of its backbone, frozen; one of zeros is not.

    Raises:
        FileNotFoundError: no such file.
        ValueError, TypeError: a file that cannot be read safely, tensors that are missing, unexpected or of another
            shape (all are listed), a backbone that does not fit, an activation or a switch that is unknown or that the
            file of the arguments contradicts. A given backbone is then as it was.
    """
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    tensors = _read(file)
    arguments = arguments_of(file, activation, train_norms)
    sizes = t5_config(file, tensors, backbone)
    kind = t5_class(sizes) if not isinstance(backbone, nn.Module) else type(backbone)
    config = hyperloader_config(tensors, sizes.d_model, arguments)
    with torch.device("meta"):
        shell = kind(sizes)
    of_backbone = shell.state_dict()
    tied = _tied(shell)
    if isinstance(backbone, nn.Module):
        _check_backbone(backbone, of_backbone)
    ours, of_hypernetworks = _hypernetworks(HyperLoaderModel(shell, config))
    with torch.device("meta"):
        of_tasks = {TASKS + task: torch.empty(config.task_embedding_dim) for task in config.tasks}
        buckets = torch.empty(sizes.relative_attention_num_buckets, sizes.num_heads)
    of_bias = {NAME: buckets} if NAME in tensors else {}
    filled = tensors | {copy: tensors[name] for copy, name in tied.items() if copy not in tensors and name in tensors}
    check_shapes(file, filled, of_backbone | of_hypernetworks | of_tasks | of_bias, extra="unexpected")
    _check_tied(file, filled, tied)
    bias: Tensor | None = tensors[NAME] if NAME in tensors and tensors[NAME].any() else None
    if bias is not None:
        check_cross_attention_bias(shell if backbone is None or isinstance(backbone, str) else backbone, bias)

    given = isinstance(backbone, nn.Module)
    with torch.device("meta"):
        filling: Any = backbone if given else kind(sizes)
    set_cross_attention_bias(filling, None)  # of a checkpoint that was read into it before
    filling.load_state_dict({name: filled[name] for name in of_backbone}, assign=not given)
    filling.tie_weights()
    set_cross_attention_bias(filling, bias)
    model = HyperLoaderModel(filling, config)
    state = {our_name: tensors[name] for name, our_name in ours.items()}
    state["task_embedding.weight"] = torch.stack([tensors[name] for name in of_tasks])
    model.load_state_dict(state, strict=False)  # what is not in it is the backbone
    return model.eval()


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; a published checkpoint is a {FILE}")
    tensors = read_pickle(file)
    if not any(name.startswith(TASKS) for name in tensors):
        raise ValueError(f"{file}: must hold the task embeddings {TASKS}<task> of a published model, got none")
    if any(name.startswith(_TRAINED_TASKS) for name in tensors):
        raise ValueError(
            f"{file}: must be trained with train_task_embeddings=False, got {_TRAINED_TASKS}*: there a network "
            "projects the task embeddings, which this model does not have"
        )
    return tensors


def _hypernetworks(model: HyperLoaderModel) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Our name and a tensor with the shape of every tensor of the hypernetworks, by its published name."""
    config = model.hyperloader_config
    names: dict[str, str] = {}
    shaped: dict[str, Tensor] = {}
    norms = norm_modules(config.norm in ("pre", "both"), config.norm in ("post", "both"))
    table = CONDITION | ADAPTER | norms | (LORA if config.lora_sites else {})
    if not config.condition_norm:
        del table["LayerNorm"]
    for stack, generator in model.generators.items():
        for published, ours in table.items():
            for name, parameter in generator.get_submodule(ours).named_parameters():
                full = f"{stack}.{HYPERNETWORK}{published}.{name}"
                names[full], shaped[full] = f"generators.{stack}.{ours}.{name}", parameter
    return names, shaped


def _tied(shell: nn.Module) -> dict[str, str]:
    """Every name of a parameter that has more than one, but the first, and that first one."""
    first: dict[int, str] = {}
    names = {
        name: first.setdefault(id(parameter), name)
        for name, parameter in shell.named_parameters(remove_duplicate=False)
    }
    return {name: original for name, original in names.items() if name != original}


def _check_tied(file: Path, tensors: Mapping[str, Tensor], tied: Mapping[str, str]) -> None:
    for copy, name in tied.items():
        if not torch.equal(tensors[copy], tensors[name]):
            raise ValueError(f"{file}: {copy} must equal {name}, which is the same parameter in this T5; it does not")


def _check_backbone(backbone: nn.Module, wanted: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` unless ``backbone`` has the tensors that its config describes and can be attached to."""
    find_stacks(backbone)
    others = differing({name: tensor for name, tensor in backbone.state_dict().items() if name != NAME}, wanted)
    if others:
        got = listed(others, "tensors", few=A_FEW)
        raise ValueError(f"backbone must have the tensors that its config describes, got others: {got}")
