"""The parts of a data set: which file is which, and parts carved from the training sentences."""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hyperloader.data.parallel_files import WORDS
from hyperloader.data.readers import READERS, reader_of
from hyperloader.data.sentence import DataError
from hyperloader.validation import A_FEW, listed

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "devel", "development", "testa"),
    "test": ("test", "testb"),
}
Example = TypeVar("Example", bound=Any)  # a Sentence, or a text of any kind: each has its ``content``
_USUAL = (".jsonl", ".conll", ".csv")  # a file SPLIT.jsonl and its like goes before every other
_SHOWN = 20


def find_files(
    folder: Path, given: Mapping[str, str], wanted: Iterable[str], suffixes: Collection[str] = READERS
) -> tuple[dict[str, Path], list[str]]:
    """The file (or ``seq.in`` folder) of every wanted split, and notes about files of that split that are not read.

    Args:
        folder: holds the files.
        given: names of files or folders in it by split; where there is none, the split's own name with a known suffix
            is looked for, then its other names (``SPLIT_NAMES``), with a suffix or as one (``eng.testa``).
        suffixes: of the files that the task's kind reads, for the message.

    Raises:
        DataError: no file for a split, or several; the message lists what the folder holds, and has no FILE:LINE.
    """
    files, notes = {}, []
    for split in wanted:
        if split in given:
            files[split] = folder / given[split]
            if not files[split].exists():
                raise DataError(f"has no {given[split]} for {split}; it holds {contents(folder)}; correct splits")
            continue
        usual = [folder / f"{split}{suffix}" for suffix in _USUAL if (folder / f"{split}{suffix}").exists()]
        others = [entry for entry in sorted(folder.iterdir()) if split_of(entry) == split and entry not in usual]
        found = usual or others
        if not found:
            carved = f", or splits: {{{split}: 10%}} takes it from train" if split != "train" else ""
            raise DataError(
                f"has no {split} ({'|'.join(SPLIT_NAMES[split])} with {'|'.join(suffixes)}"
                + (f", or a folder with {WORDS}" if suffixes is READERS else "")
                + "); "
                f"it holds {contents(folder)}; rename a file, or name it with splits: {{{split}: FILE}}{carved}"
            )
        if len(found) > 1:
            raise DataError(
                f"has {_named(found, ' and ')}; give it exactly one, or name it with splits: {{{split}: FILE}}"
            )
        files[split] = found[0]
        if usual and others:
            notes.append(f"{_named(others, ', ')} is not read beside {found[0].name}")
    return files, notes


def split_of(path: Path) -> str | None:
    """The split that a file's or folder's name stands for: ``dev.txt``, ``eng.testa``, ``valid/`` with ``seq.in``."""
    if path.is_dir():
        name = path.name if (path / WORDS).is_file() else ""
    elif path.suffix.lower() in READERS:
        name = path.stem
    else:
        name = path.suffix[1:] if reader_of(path) else ""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def _named(files: Sequence[Path], between: str) -> str:
    """The names of files, of many the first few and how many there are."""
    names = [file.name for file in files]
    return between.join(names) if len(names) <= A_FEW else listed(names, "files", few=A_FEW)


def contents(folder: Path) -> str:
    """What a folder holds, in words."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))
    rest = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest if names else "nothing"


def carve(train: Sequence[Example], parts: Mapping[str, float], seed: int) -> dict[str, list[Example]]:
    """Parts of ``train`` by name, and what is left as ``train``, each in the order of ``train``.

    Sentences are ranked by SHA-256 of the seed and their words, and each part takes the next ones until it has its
    share: equal sentences go together, so that no part holds a sentence of another, and neither the order of the file
    nor the machine matters.

    Args:
        parts: the share of ``train`` that each part gets, each above 0, together below 1.
        seed: any whole number.

    Raises:
        DataError: a part, or what is left, would be empty.
    """
    places: dict[tuple[str, ...], list[int]] = {}
    for place, sentence in enumerate(train):
        places.setdefault(sentence.content, []).append(place)

    def rank(tokens: tuple[str, ...]) -> bytes:
        return hashlib.sha256("\0".join((str(seed), *tokens)).encode()).digest()

    ranked = iter(sorted(places, key=rank))
    taken: dict[str, set[int]] = {}
    for name, share in parts.items():
        taken[name], wanted = set(), math.floor(share * len(train) + 0.5)
        while len(taken[name]) < wanted:
            taken[name].update(places[next(ranked)])
    taken["train"] = set(range(len(train))).difference(*taken.values())
    for name, chosen in taken.items():
        if not chosen:
            raise DataError(f"splits leave no sentence for {name} of the {len(train):,} of train; change the shares")
    return {name: [train[place] for place in sorted(chosen)] for name, chosen in taken.items()}
