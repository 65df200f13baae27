"""The option ``--columns``: ``tokens=2,tags=4``."""

from collections.abc import Collection


def parse_columns(text: str, known: Collection[str]) -> dict[str, str | int]:
    """What stands where, by the ``known`` keys, such as ``tokens`` and ``tags``: names or numbers.

    Raises:
        ValueError: no pairs, an unknown key, or one that comes twice.
    """
    from hyperloader.validation import check_key

    pairs: dict[str, str | int] = {}
    for part in text.split(","):
        key, equals, value = (one.strip() for one in part.partition("="))
        if not equals or not value or key in pairs:
            raise ValueError(f"--columns must have the form tokens=2,tags=4, got {text!r}")
        check_key("--columns", key, known)
        pairs[key] = int(value) if value.removeprefix("-").isdecimal() else value
    return pairs
