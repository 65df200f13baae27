"""Folders on the Hugging Face Hub: had by their name, put there."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")
CARD = "README.md"  # which the Hub shows


def local_folder(
    folder_or_name: str | Path, files: Sequence[str], revision: str | None = None, what: str = "the output of a run"
) -> Path:
    """The folder ``folder_or_name``; of ``owner/name``, where no such folder exists, that of the files from the Hub.

    Args:
        files: what is needed, as patterns.
        revision: a branch, a tag or a commit of the repository.
        what: the folder should be, for the message.

    Raises:
        FileNotFoundError: neither a folder nor a repository that can be had.
        ValueError: a ``revision`` of a folder.
    """
    folder = Path(folder_or_name)
    if folder.exists():
        if revision is not None:
            raise ValueError(f"revision must be None for a folder, got {revision!r} for {folder}")
        return folder
    if isinstance(folder_or_name, Path) or not _ON_HUB.fullmatch(folder_or_name):
        raise FileNotFoundError(f"{folder}: no such folder; name {what}, or owner/name on the Hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(folder_or_name, revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{folder_or_name}: no such folder, and no repository of the Hugging Face Hub that can be had "
            f"({_first_line(error)})"
        ) from error


def push(
    folder: Path, repo_id: str, files: Sequence[str], card: str, private: bool | None = None, token: str | None = None
) -> str:
    """Put ``files`` (patterns) of ``folder``, and ``card`` as its README.md, into the repository ``repo_id``, which is
    made if need be; returns the address of the commit.

    Raises:
        ValueError: ``repo_id`` is no ``owner/name``.
        ConnectionError: the Hub cannot be reached, or refuses; what the repository held is as it was.
    """
    if not _ON_HUB.fullmatch(repo_id):
        raise ValueError(f"repo_id must have the form owner/name, got {repo_id!r}")
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    paths = sorted({path for pattern in files for path in folder.glob(pattern) if path.is_file()})
    added: list[Any] = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in paths]
    added.append(CommitOperationAdd(CARD, card.encode()))
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.create_commit(repo_id, added, commit_message="HyperLoader: tasks and weights").commit_url)
    except (HfHubHTTPError, OSError) as error:
        raise ConnectionError(
            f"{repo_id}: the Hugging Face Hub did not take it ({_first_line(error)}); log in with `hf auth login`, or "
            "give a token that may write there"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
