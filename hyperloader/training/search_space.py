"""What a search chooses from: keys of a run with listed values, all of them checked."""

import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperloader.training.run_config import SECTIONS, RunConfig
from hyperloader.validation import shown

Values = Mapping[str, Any]  # a value of every key
# Scores of runs that differ in these are of different sentences.
_WHAT_IS_SCORED = ("tasks", "fraction", "data_seed", "training.eval_sentences")
_LONGEST_PART, _LONGEST_NAME = 48, 160  # characters of a folder's name


def text_of(value: Any) -> str:
    """``value`` as one reads it, other for other values: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class SearchSpace:
    """Listed values of keys of a run; made by ``search_space``.

    Args:
        config: the run, with the first value of every key.
        over: of every key its values, as the run's config holds them.
    """

    config: RunConfig
    over: Mapping[str, Sequence[Any]]

    @property
    def size(self) -> int:
        """How many combinations there are."""
        return math.prod(len(values) for values in self.over.values())

    def combinations(self) -> Iterator[dict[str, Any]]:
        """All of them, the last key's values going round first."""
        return (dict(zip(self.over, values, strict=True)) for values in itertools.product(*self.over.values()))

    def holds(self, values: Values) -> bool:
        """Whether ``values`` are one of the combinations."""
        return all(text_of(values[key]) in map(text_of, listed) for key, listed in self.over.items())

    def run(self, values: Values, folder: Path) -> RunConfig:
        """The run that has these values, in ``folder``; raises ``ValueError`` for values that do not go together."""
        return dataclasses.replace(_with(self.config, values), output=str(folder))

    def name(self, values: Values) -> str:
        """Of the folder of these values, as ``rank=4,learning_rate=0.001``: the same whatever else is listed."""
        keys = sorted(self.over)
        last = [key.rpartition(".")[2] for key in keys]
        parts = (
            f"{short if last.count(short) == 1 else key}={_part(text_of(values[key]), _LONGEST_PART)}"
            for key, short in zip(keys, last, strict=True)
        )
        return _shortened(",".join(parts), _LONGEST_NAME)


def search_space(config: RunConfig, over: Mapping[str, Sequence[Any]]) -> SearchSpace:
    """The space of ``over``: of keys as ``training.learning_rate`` or ``method`` the values to try in ``config``.

    Every value of a key is checked together with every value of every other key.

    Raises:
        ValueError: no key; a key that is unknown or decides which sentences are scored; no value, one value twice, one
            that is not valid, or two that are not together.
    """
    if not over:
        raise ValueError("over must name at least one key, got none")
    for key, values in over.items():
        _check_key(key)
        if not values:
            raise ValueError(f"over {key} must list at least one value, got none")
    first = {key: values[0] for key, values in over.items()}
    for key, values in over.items():
        for value in values:
            _with(config, {**first, key: value}, {key: value})
    for (key, values), (other, others) in itertools.combinations(over.items(), 2):
        for value, one in itertools.product(values, others):
            _with(config, {**first, key: value, other: one}, {key: value, other: one})
    found = {key: [_as_held(_with(config, {**first, key: value}), key) for value in over[key]] for key in over}
    for key, values in found.items():
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"over {key} must list a value once, got {shown(value)} {values.count(value)} times")
    return SearchSpace(_with(config, {key: values[0] for key, values in found.items()}), found)


def _check_key(key: str) -> None:
    if key in _WHAT_IS_SCORED:
        raise ValueError(f"over must not name {key}: scores of other sentences cannot be compared")
    if key == "output":
        raise ValueError("over must not name output: every trial has its own folder")
    if key in SECTIONS:
        raise ValueError(f"over must name one key of {key}, as {key}.NAME, got {key} as a whole")


def _with(config: RunConfig, values: Values, blamed: Values | None = None) -> RunConfig:
    """``config`` with these values; a message starts with those that are ``blamed``, or with all."""
    source = ", ".join(f"{key}={text_of(value)}" for key, value in (blamed or values).items())
    return config.with_values(values.items(), source=f"over {source:.200}")


def _as_held(config: RunConfig, key: str) -> Any:
    """The value of ``key`` in ``config``; of training options in its type, in which 1e-3 is a number."""
    section, dot, name = key.partition(".")
    if not dot:
        return getattr(config, key)
    return getattr(config.options, name) if section == "training" else config.model[name]


def _part(text: str, longest: int) -> str:
    """``text`` in the characters of a folder's name; with a hash where that changes it."""
    plain = re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-")
    return _shortened(text, longest) if plain == text else _hashed(plain, text, longest)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else _hashed(text, text, longest)


def _hashed(plain: str, text: str, longest: int) -> str:
    return f"{plain[-(longest - 9) :]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
