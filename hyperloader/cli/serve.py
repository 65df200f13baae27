"""``hyperloader serve``: runs over HTTP, all their tasks in common batches."""

import os
from pathlib import Path
from typing import Annotated

import typer


def serve(
    runs: Annotated[
        list[str],
        typer.Argument(help="Output folders of `hyperloader train`, or NAME=FOLDER.", metavar="RUN_FOLDER..."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 for any that is free.")] = 8000,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen at an address that others can reach without an API key.")
    ] = False,
    tokenize: Annotated[
        str, typer.Option(help="Words of a text: words, as in the training data, or spaces.")
    ] = "words",
    max_batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a batch, padding included; else by the device.", show_default=False)
    ] = None,
    max_wait_ms: Annotated[float, typer.Option(help="How long an input waits for others to join its batch.")] = 2.0,
    max_queue: Annotated[int, typer.Option(help="Inputs that may wait; beyond, requests get 429.")] = 4096,
    max_inputs: Annotated[int, typer.Option(help="Inputs times tasks of one request; beyond, 413.")] = 1024,
    max_body_bytes: Annotated[int, typer.Option(help="Size of a request's body; beyond, 413.")] = 1 << 20,
    timeout_s: Annotated[float, typer.Option(help="Seconds for an answer; beyond, 504.")] = 30.0,
    drain_s: Annotated[
        float, typer.Option(help="Seconds after SIGTERM in which /readyz says 503 and connections are still taken.")
    ] = 0.0,
    one_task_batches: Annotated[
        bool, typer.Option("--one-task-batches", help="Compute batches of one task alone, for comparison.")
    ] = False,
) -> None:
    """Serve one run or several over HTTP: POST /v1/predict, a page at /, metrics at /metrics.

    Other addresses than this machine's own need an API key in the environment variable HYPERLOADER_API_KEY, or
    --insecure. SIGTERM answers what has been accepted and ends; SIGHUP and POST /v1/reload load new versions of runs.
    """
    from hyperloader.serving.settings import API_KEY, Settings
    from hyperloader.serving.tagger import TOKENIZE
    from hyperloader.validation import check_choice

    check_choice("tokenize", tokenize, TOKENIZE)
    folders = _named(runs)
    settings = Settings(
        host=host, port=port, api_key=os.environ.get(API_KEY) or None, max_body_bytes=max_body_bytes,
        max_inputs=max_inputs, max_queue=max_queue, timeout_s=timeout_s, drain_s=drain_s,
        max_batch_tokens=max_batch_tokens, max_wait_ms=max_wait_ms, mixed=not one_task_batches,
    )  # fmt: skip
    if not settings.is_local and settings.api_key is None and not insecure:
        raise ValueError(
            f"host must be this machine's own, as 127.0.0.1, unless {API_KEY} is set or --insecure is given, got {host}"
        )
    from hyperloader.serving import server
    from hyperloader.serving.memory import keep_few_kernels
    from hyperloader.serving.registry import Registry

    keep_few_kernels()
    with server.listen(settings) as listener:  # before runs are loaded
        server.serve(Registry(folders, tokenize), settings, listener)


def _named(runs: list[str]) -> dict[str, Path]:
    """Folders by name: NAME=FOLDER, or a folder, which has its own name."""
    from hyperloader.training.run_folder import CONFIG

    found: dict[str, Path] = {}
    for run in runs:
        name, equals, folder = run.partition("=")
        path = Path(folder if equals and not Path(run).exists() else run)
        name = name if equals and not Path(run).exists() else path.resolve().name
        if not path.is_dir() or not (path / CONFIG).is_file():
            raise FileNotFoundError(f"{path}: holds no run (no {CONFIG}); name the output folder of a training")
        if not name:
            raise ValueError(f"run must have a name, got {run!r}; write NAME=FOLDER")
        if name in found:
            raise ValueError(f"run must have a name of its own, got {name!r} twice; write NAME=FOLDER")
        found[name] = path
    return found
