"""A run's model in the formats of others."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch

from hyperloader.checkpoints.atomic import write_text, writing_folder
from hyperloader.data.heads import TOKEN_CLASSIFICATION
from hyperloader.model import HyperLoaderModel
from hyperloader.training.compiling import check_cxx_compiler
from hyperloader.training.saved_run import Run, check_tasks, load_run
from hyperloader.validation import check_choice

ONNX, INT8, PROGRAM, COMPILED, TASKS = "model.onnx", "model.int8.onnx", "model.pt2", "compiled.pt2", "tasks.json"
_NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
_PROGRAMS = ("onnx", "torch-export", "aot-inductor")
_QUANTIZED = ("ours", "peft")  # formats that hold no weight of the backbone
_OF_ONE_TASK = ("ours", "peft", "transformers")


def export_run(
    folder: str | Path,
    output: str | Path,
    format: str,
    task: str | None = None,
    *,
    int8: bool = False,
    lora_only: bool = False,
    opset: int | None = None,
) -> Run:
    """Write the best weights of the run in ``folder`` to the folder ``output``.

    Args:
        format: one of ``FORMATS``. ``ours``: one task without hypernetworks, for the same backbone. ``peft``: its LoRA
            updates. ``transformers``: a token classifier. ``onnx``, ``torch-export`` and ``aot-inductor``: one task, or
            all in one file to which the task of each sentence is an input; beside it the tokenizer and ``tasks.json``.
        task: which one; None for all.
        int8: of ``onnx``, a second file with int8 weights.
        lora_only: of ``peft``, leave out what it has no place for.
        opset: of ``onnx``, the version of its operators; None for the oldest that is written.

    Returns:
        The run.

    Raises:
        FileNotFoundError, ValueError: no run, an unknown task or format, an option without use, a method without
            generated weights, an output that is in use. ImportError: a library is missing.
    """
    check_choice("format", format, FORMATS)
    if task is None and format in _OF_ONE_TASK:
        raise ValueError(f"--task must be given for the format {format}, which holds one")
    options = (("--int8", int8, "onnx"), ("--lora-only", lora_only, "peft"), ("--opset", opset is not None, "onnx"))
    for name, given, needed in options:
        if given and format != needed:
            raise ValueError(f"{name} must be given with the format {needed} alone, got {format}")
    missing = [name for name in _NEEDED.get(format, ()) if importlib.util.find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise ImportError(
            f"the format {format} needs {', '.join(missing)}, which {are} not installed; run: "
            f"pip install 'hyperloader[{format}]'"
        )
    if opset is not None:
        from hyperloader.interop.onnx import check_opset

        check_opset(opset)
    if format == "aot-inductor":
        check_cxx_compiler(f"the format {format}")
    output = Path(output)
    if output.exists() and (not output.is_dir() or os.listdir(output)):
        raise ValueError(f"output must be a new or an empty folder, got {output}")
    check_tasks(folder, [] if task is None else [task])
    run = load_run(folder)
    model = run.hyperloader
    if model is None:
        raise ValueError(
            f"{folder}: method must be hyperloader, hyperformer++ or adapter to be exported, got {run.config.method}"
        )
    if format not in _QUANTIZED and run.config.backbone_quantization is not None:
        raise ValueError(
            f"format must be {' or '.join(_QUANTIZED)} for a run with backbone_quantization "
            f"{run.config.backbone_quantization}, got {format}"
        )
    if format in _PROGRAMS and run.heads is None:
        raise ValueError(
            f"head of a run must be {TOKEN_CLASSIFICATION} for the format {format}, got {run.config.head}; the format "
            "ours takes it"
        )
    if format in _PROGRAMS and run.config.backbone_dtype != "float32":
        raise ValueError(
            f"backbone_dtype of a run must be float32 for the format {format}, got {run.config.backbone_dtype}; the "
            "others take it"
        )
    model.to("cpu").eval()
    output.parent.mkdir(parents=True, exist_ok=True)
    if format == "peft":
        model.export_peft(str(task), output, lora_only=lora_only)
    elif format == "onnx":
        with writing_folder(output) as temporary:
            _write_onnx(run, model, temporary, task, int8, opset)
    else:
        _WRITERS[format](run, model, output, task)
    return run


def _write_ours(run: Run, model: HyperLoaderModel, output: Path, task: str | None) -> None:
    model.export_task(str(task), output)


def _write_transformers(run: Run, model: HyperLoaderModel, output: Path, task: str | None) -> None:
    from hyperloader.interop.token_classifier import save_token_classifier

    save_token_classifier(model.merge(str(task)), output, run.formulation.tokenizer)


def _write_program(run: Run, model: HyperLoaderModel, output: Path, task: str | None) -> None:
    from hyperloader.interop.program import exported

    program = exported(model if task is None else model.merge(task))
    with writing_folder(output) as temporary:
        torch.export.save(program, temporary / PROGRAM)
        _describe(run, temporary, task)


def _write_compiled(run: Run, model: HyperLoaderModel, output: Path, task: str | None) -> None:
    from hyperloader.interop.program import save_compiled

    with writing_folder(output) as temporary:
        save_compiled(model if task is None else model.merge(task), temporary / COMPILED)
        _describe(run, temporary, task)


def _write_onnx(
    run: Run, model: HyperLoaderModel, folder: Path, task: str | None, int8: bool, opset: int | None
) -> None:
    from hyperloader.interop.onnx import OPSETS, quantize_onnx, save_onnx

    save_onnx(model if task is None else model.merge(task), folder / ONNX, OPSETS[0] if opset is None else opset)
    if int8:
        quantize_onnx(folder / ONNX, folder / INT8)
    _describe(run, folder, task)


def _describe(run: Run, folder: Path, task: str | None) -> None:
    from hyperloader.interop.program import describe

    model = run.hyperloader
    assert model is not None
    described = describe(model.hyperloader_config)
    if task is not None:
        described["tasks"] = [one for one in described["tasks"] if one["name"] == task]
    described["max_length"] = run.formulation.max_length
    write_text(folder / TASKS, json.dumps(described, ensure_ascii=False, indent=1))
    run.formulation.tokenizer.save_pretrained(folder)


_WRITERS: dict[str, Callable] = {
    "ours": _write_ours,
    "transformers": _write_transformers,
    "torch-export": _write_program,
    "aot-inductor": _write_compiled,
}
FORMATS = ("ours", "peft", "transformers", "onnx", "torch-export", "aot-inductor")
