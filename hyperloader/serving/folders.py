"""Where a run is: in a folder, or on the Hugging Face Hub."""

import re
from pathlib import Path

from hyperloader.training.run_folder import BEST, CONFIG, KINDS, LABELS
from hyperloader.training.word_rules import WORDS

_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_NEEDED = (CONFIG, LABELS, KINDS, WORDS, f"{BEST}/*")


def local_folder(folder_or_name: str | Path, revision: str | None = None) -> Path:
    """The folder of a run; of ``owner/name``, where no such folder exists, that of the files from the Hub.

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
        raise FileNotFoundError(f"{folder}: no such folder; name the output of a run, or owner/name on the Hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(folder_or_name, revision=revision, allow_patterns=list(_NEEDED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"{folder_or_name}: no such folder, and no repository of the Hugging Face Hub that can be had ({reason})"
        ) from error
