"""Folders on the Hugging Face Hub: had by their name, put there."""

import logging
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hyperloader.checkpoints.card_file import CARD, is_replaceable, license_of, with_license

_logger = logging.getLogger("hyperloader")
_Files = Mapping[str, Path | bytes]
_ON_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")


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

    try:
        return Path(snapshot_download(folder_or_name, revision=revision, allow_patterns=list(files)))
    except _refusals() as error:
        raise FileNotFoundError(
            f"{folder_or_name}: no such folder, and no repository of the Hugging Face Hub that can be had "
            f"({_first_line(error)})"
        ) from error


def check_repo_id(repo_id: str) -> None:
    """Raise ``ValueError`` for what is no ``owner/name``."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not _ON_HUB.fullmatch(repo_id):
        raise ValueError(f"repo_id must have the form owner/name, got {repo_id!r}")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id must be a name that the Hub takes: {_first_line(error)}") from None


def push(
    files: _Files,
    repo_id: str,
    own: Sequence[str],
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Put ``files``, by their names there, into the repository ``repo_id``, which is made if need be; returns the
    address of the commit. A card that was edited there stays, with a warning, unless ``files`` have one that was edited
    here; one that was not is replaced, and its licence stays if the new one names none. A licence that is
    lost by a card edited here is warned of.

    Args:
        own: patterns of names; what the repository has of these beside ``files`` is of an earlier push, and goes.

    Raises:
        ValueError: ``repo_id`` is no ``owner/name``.
        ConnectionError: the Hub cannot be reached, or refuses; what the repository held is as it was.
    """
    check_repo_id(repo_id)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        there, kept = api.list_repo_files(repo_id), set[str]()
        if CARD in there and CARD in files:
            files, kept = _with_card(files, Path(api.hf_hub_download(repo_id, CARD)), repo_id)
        changes: list[Any] = [CommitOperationAdd(name, one) for name, one in files.items() if name not in kept]
        old = [name for name in there if name not in files and any(fnmatch(name, one) for one in own)]
        changes += [CommitOperationDelete(name) for name in old]
        return str(api.create_commit(repo_id, changes, commit_message="HyperLoader: tasks and weights").commit_url)
    except _refusals() as error:
        raise ConnectionError(
            f"{repo_id}: the Hugging Face Hub did not take it ({_first_line(error)}); a repository that you may write "
            "to needs `hf auth login`, or a token"
        ) from error


def _with_card(files: _Files, earlier: Path, repo_id: str) -> tuple[_Files, set[str]]:
    """``files`` with the card that is to replace the ``earlier`` one, and {CARD} if that stays."""
    card = files[CARD]
    before, now = license_of(earlier.read_bytes()), license_of(card if isinstance(card, bytes) else card.read_bytes())
    if isinstance(card, Path):
        if before and not now:
            _logger.warning("warning: %s: had the license %s, which %s does not name", repo_id, before, card)
        return files, set()
    if is_replaceable(earlier):
        return {**files, CARD: with_license(card, before)} if before and not now else files, set()
    more = f"; write license: {now} into it" if now not in (None, before) else ""
    _logger.warning("warning: %s: its %s was edited there, and stays as it is%s", repo_id, CARD, more)
    return files, {CARD}


def _refusals() -> tuple[type[BaseException], ...]:
    """What the Hub's client raises: for its answers, for names that are none, and where there is no network."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    of_client = [kind for kind in HfHubHTTPError.__mro__ if not kind.__module__.startswith("builtins")]
    return OSError, HFValidationError, *of_client


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
