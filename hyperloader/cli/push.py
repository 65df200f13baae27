"""``hyperloader push``: a run to the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer


def push(
    run_folder: Annotated[Path, typer.Argument(help="Output folder of `hyperloader train`.", metavar="RUN_FOLDER")],
    repo_id: Annotated[str, typer.Argument(help="Where to, as owner/name.", metavar="OWNER/NAME")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    license: Annotated[str | None, typer.Option(help="Licence of the weights, as apache-2.0.")] = None,
) -> None:
    """Publish a run on the Hugging Face Hub with a model card: weights, labels, metrics, words to split texts by."""
    from hyperloader.training.publishing import push_run

    print(push_run(run_folder, repo_id, private=private or None, license=license))
