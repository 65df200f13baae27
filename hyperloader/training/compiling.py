"""``training: {compile: true}``: the model's forward and backward by torch.compile, without it where that fails."""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from hyperloader.data.examples import Example
from hyperloader.nn.heads import TaskHeads
from hyperloader.nn.loss import IGNORED
from hyperloader.processes import speaks_first
from hyperloader.training.batches import Batch
from hyperloader.training.compile_time import count_compiling


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

    fx_config: Any = importlib.import_module("torch.fx.experimental._config")
    compiled = torch.compile(model._call_impl, dynamic=True, fullgraph=True)
    count_compiling()

    def call(*arguments: Any, **options: Any) -> Any:
        if _has_other_graphs(options):
            return model._call_impl(*arguments, **options)
        try:
            with fx_config.patch(use_duck_shape=False):  # as many tokens as sentences are no reason for another graph
                return compiled(*arguments, **_with_all_inputs(model, options))
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            model._compiled_call_impl = None
            if speaks_first("compile"):  # which may be another process than the main one
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                tqdm.write(f"compile: {type(model).__name__} goes on without it: {reason}", file=sys.stderr)
        return model._call_impl(*arguments, **options)

    model._compiled_call_impl = call


def _has_other_graphs(options: dict[str, Any]) -> bool:
    """Whether a forward would need another graph: one of the writing of texts or the choice of labels, which come in
    many shapes, or of the one sentence that is left of a validation set."""
    ids = options.get("input_ids")
    return "use_cache" in options or (ids is not None and len(ids) == 1 and not torch.is_grad_enabled())


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


def with_wide_labels(collate: Callable[[Sequence[Example]], Batch]) -> Callable[[Sequence[Example]], Batch]:
    """``collate`` for an encoder-decoder, with three labels a sentence at least: T5 moves them by one, and what is then
    one wide has a graph of its own."""

    def collated(examples: Sequence[Example]) -> Batch:
        batch = collate(examples)
        missing = max(0, 3 - batch["labels"].shape[1])
        return batch | {"labels": functional.pad(batch["labels"], (0, missing), value=IGNORED)}

    return collated
