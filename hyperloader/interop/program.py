"""Encoders with task heads as programs, which need nothing of this package, or its extension alone; compiled or not."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hyperloader
from hyperloader.checkpoints.atomic import writing_files
from hyperloader.config import HyperLoaderConfig
from hyperloader.model import HyperLoaderModel, TaskModel
from hyperloader.nn.quantized import check_plain_layers
from hyperloader.ops._reference import plain
from hyperloader.ops._schema import SCHEMAS
from hyperloader.ops.backend import use_backend
from hyperloader.validation import check_choice

INPUT_IDS, ATTENTION_MASK, SEGMENTS, TASK_IDS = "input_ids", "attention_mask", "token_type_ids", "task_ids"
LOGITS = "logits"
OPERATORS = ("plain", "ours")
_MOST_SENTENCES = 1 << 16
_MOST_TOKENS = 1 << 14  # of a backbone without a limit


class Logits(nn.Module):
    """A model's forward as what is exported: tensors in, by position, logits out.

    ``inputs`` names them: ``input_ids`` and ``attention_mask`` (batch, tokens), of a backbone that tells the texts of a
    pair apart ``token_type_ids``, of a model of several tasks ``task_ids`` (batch,).
    """

    def __init__(self, model: HyperLoaderModel | TaskModel) -> None:
        super().__init__()
        self.model = model
        segments = [SEGMENTS] if getattr(model.config, "type_vocab_size", 0) > 1 else []
        tasks = [TASK_IDS] if isinstance(model, HyperLoaderModel) else []
        self.inputs = [INPUT_IDS, ATTENTION_MASK, *segments, *tasks]

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(**dict(zip(self.inputs, tensors, strict=True))).logits

    def example(self) -> tuple[Tensor, ...]:
        """Two short sentences."""
        sizes = [(2,) if name == TASK_IDS else (2, 3) for name in self.inputs]
        return tuple(torch.ones(size, dtype=torch.int64) * (name != TASK_IDS) * (name != SEGMENTS)
                     for size, name in zip(sizes, self.inputs, strict=True))  # fmt: skip


def exported(model: HyperLoaderModel | TaskModel, operators: str = "plain") -> torch.export.ExportedProgram:
    """``model``'s forward as a program, for any number of sentences and tokens.

    Its inputs are those of ``Logits``, int64, its output the logits: those of ``HyperLoaderModel.forward`` with
    ``task_ids``, or of ``TaskModel.forward``. Of several tasks every sentence's weights are generated inside, for its
    own task; the file is as large as the model.

    Args:
        model: an encoder with task heads, float32, on the CPU.
        operators: ``plain``: PyTorch's own alone; ``ours``: adapters and LoRA are computed by those of our extension,
            which a process that runs the program loads: ``torch.ops.load_library(hyperloader._C.__file__)``.

    Raises:
        ValueError: a model without heads, in another dtype or elsewhere, or on a quantised backbone. RuntimeError:
            there is no extension.
    """
    check_choice("operators", operators, OPERATORS)
    if model.heads is None:
        raise ValueError(
            f"model must be an encoder with task heads to be exported, got {type(model.backbone).__name__}, which "
            "writes text"
        )
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise ValueError(f"model must be float32 on the CPU to be exported, got {model.dtype} on {model.device}")
    check_plain_layers(model.backbone, "exported", "merge(..., dequantize=True) makes them")
    training = model.training
    logits = Logits(model).eval()
    batch = torch.export.Dim("batch", min=1, max=_MOST_SENTENCES)
    tokens = torch.export.Dim("tokens", min=1, max=_most_tokens(model.backbone))
    shapes = tuple({0: batch} if name == TASK_IDS else {0: batch, 1: tokens} for name in logits.inputs)
    try:
        with torch.no_grad(), use_backend("native"):
            program = torch.export.export(logits, logits.example(), dynamic_shapes=(shapes,), strict=False)
            table = torch.export.default_decompositions() | _plain_operators()
            if operators == "ours":
                del table[torch.ops.hyperloader.adapter.default]
                del table[torch.ops.hyperloader.lora_linears.default]
                table[torch.ops.hyperloader.lora_linear.default] = _lora_linear
            return program.run_decompositions(table)
    finally:
        model.train(training)


def save_compiled(model: HyperLoaderModel | TaskModel, path: str | Path, operators: str = "plain") -> None:
    """Write ``exported(model, operators)`` compiled by AOTInductor, for processors like this one.

    ``torch._inductor.aoti_load_package(path)`` loads it, with torch alone or, with ``operators="ours"``, after
    ``torch.ops.load_library``; it is called as the program is, with tensors by position.

    Args:
        path: of the file, which has to end with ``.pt2``.

    Raises:
        ValueError: another path, and what ``exported`` raises.
    """
    if Path(path).suffix != ".pt2":
        raise ValueError(f"path must end with .pt2, got {path}")
    package = io.BytesIO()
    torch._inductor.aoti_compile_and_package(exported(model, operators), package_path=package)
    with writing_files(Path(path)) as (temporary,):
        temporary.write_bytes(package.getvalue())


def describe(config: HyperLoaderConfig) -> dict[str, Any]:
    """What one has to know to read logits: of every task, in the order of the ids, kind, labels and units."""
    if config.labels is None:
        raise ValueError("config.labels must be given to describe an encoder's tasks, got None")
    tasks = [
        {
            "name": task,
            "kind": config.kind_of(task),
            "labels": list(config.labels[task]),
            **({"mean": units[0], "deviation": units[1]} if (units := (config.units or {}).get(task)) else {}),
        }
        for task in config.tasks
    ]
    return {"tasks": tasks, "version": hyperloader.__version__}


def _plain_operators() -> dict[Any, Any]:
    names = [name for name in (*SCHEMAS, "lora_linear") if not name.endswith("_backward")]
    return {getattr(torch.ops.hyperloader, name).default: plain(name) for name in names}


def _lora_linear(x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, *others: Any) -> Tensor:
    """``lora_linear`` with a bias, of zeros if need be: AOTInductor loses an empty list."""
    bias = x.new_zeros(weight.shape[0]) if bias is None else bias
    return torch.ops.hyperloader.lora_linears(x, [weight], [bias], [A], [B], *others)[0]


def _most_tokens(backbone: nn.Module) -> int:
    """What the backbone's position embeddings allow; RoBERTa's begin behind the padding's."""
    positions: Any = getattr(backbone.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return _MOST_TOKENS
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return positions if padding is None else positions - padding - 1
