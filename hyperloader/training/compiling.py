"""``training: {compile: true}``: the model's forward and backward by torch.compile, without it where that fails."""

import sys
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from hyperloader.nn.heads import TaskHeads
from hyperloader.processes import is_main_process


def check_compiler() -> None:
    """Raise ``ImportError`` where this machine lacks what torch.compile makes kernels with."""
    if torch.cuda.is_available():
        from torch.utils._triton import has_triton

        if not has_triton():
            raise ImportError("compile: true needs Triton for this GPU; run: pip install triton, or leave compile out")
    else:
        check_cxx_compiler("compile: true")


def check_cxx_compiler(what: str) -> None:
    """Raise ``ImportError`` where this machine has no C++ compiler, which ``what`` needs."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ImportError(
            f"{what} needs a C++ compiler; install g++, or name another one by the environment variable CXX"
        ) from None


def compile_model(model: nn.Module) -> None:
    """Let calls of ``model`` run compiled, in one graph for any length; names and states stay.

    Where the compiler gives up, one line on standard error says why, and the model goes on as it was.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    compiled = torch.compile(model._call_impl, dynamic=True, fullgraph=True)

    def call(*arguments: Any, **options: Any) -> Any:
        if options.get("past_key_values") is not None:  # the writing of texts
            return model._call_impl(*arguments, **options)
        try:
            return compiled(*arguments, **_with_all_inputs(model, options))
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            model._compiled_call_impl = None
            if is_main_process():
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                tqdm.write(f"compile: {type(model).__name__} goes on without it: {reason}", file=sys.stderr)
        return model._call_impl(*arguments, **options)

    model._compiled_call_impl = call


def _with_all_inputs(model: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """What a batch of tasks of whole sentences may lack, as it would be without: one graph is of one set of inputs."""
    heads = getattr(model, "heads", None)
    if not isinstance(heads, TaskHeads) or not heads.of_sentences or "input_ids" not in options:
        return options
    if getattr(model.config, "type_vocab_size", 0) > 1 and "token_type_ids" not in options:
        options["token_type_ids"] = torch.zeros_like(options["input_ids"])
    if "labels" in options:
        targets = options.get("targets", options["labels"].new_zeros(len(options["labels"]), 0, dtype=torch.float32))
        missing = heads.most_numbers - targets.shape[1]
        options["targets"] = functional.pad(targets, (0, missing), value=torch.nan)
    return options


def is_compiled(model: nn.Module) -> bool:
    """Whether calls of ``model`` run compiled."""
    return model._compiled_call_impl is not None
