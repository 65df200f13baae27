"""``hyperloader export``: a run's model in the formats of others."""

import dataclasses
import warnings
from pathlib import Path
from typing import Annotated

import typer


def export(
    run_folder: Annotated[Path, typer.Argument(help="Output folder of `hyperloader train`.", metavar="RUN_FOLDER")],
    output: Annotated[Path, typer.Argument(help="A new or empty folder.", metavar="OUTPUT")],
    format: Annotated[str, typer.Option(help="onnx, torch-export, aot-inductor, transformers, peft or ours.")],
    task: Annotated[
        str | None,
        typer.Option(help="One task alone; without it the first three formats hold all, chosen for each sentence."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Of onnx, a second file with int8 weights.")] = False,
    lora_only: Annotated[bool, typer.Option("--lora-only", help="Of peft, leave out what it cannot hold.")] = False,
    opset: Annotated[int | None, typer.Option(help="Of onnx, the version of its operators.", show_default="18")] = None,
    score: Annotated[bool, typer.Option("--score", help="Of onnx, score what was written on the test sets.")] = False,
) -> None:
    """Write a run's best weights for ONNX runtimes, torch.export, transformers, PEFT or another HyperLoader model."""
    from hyperloader.training.exporting import INT8, ONNX, export_run

    if score and format != "onnx":
        raise ValueError(f"--score must be given with the format onnx alone, got {format}")
    with warnings.catch_warnings():  # of PyTorch's exporter about itself
        warnings.filterwarnings("ignore", category=FutureWarning)
        run = export_run(run_folder, output, format, task, int8=int8, lora_only=lora_only, opset=opset)
    for path in sorted(output.iterdir()):
        print(f"{path}  {path.stat().st_size / 2**20:,.1f} MiB")
    if not score:
        return

    from hyperloader.cli.table import scores_table
    from hyperloader.interop.onnx import OnnxModel
    from hyperloader.training.saved_run import scorer

    tasks = run.config.load_tasks([task] if task else None)
    for name in (ONNX, INT8) if int8 else (ONNX,):
        written = dataclasses.replace(run, model=OnnxModel(output / name))
        print(f"\n{name}, test\n\n{scores_table(scorer(written, tasks, 'test')(written.model))}")
