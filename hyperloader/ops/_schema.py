"""The operators' schemas, from ``schemas.inc``: the text that csrc/ops.cpp compiles in."""

import functools
from pathlib import Path

import torch


def _read() -> dict[str, str]:
    """The schema of every operator by its name; the file has one paragraph per operator, inside a C++ raw string."""
    text = (Path(__file__).parent / "schemas.inc").read_text(encoding="utf-8")
    paragraphs = text.strip().removeprefix('R"(').removesuffix(')"').strip().split("\n\n")
    schemas = [" ".join(paragraph.split()) for paragraph in paragraphs]
    return {schema.partition("(")[0]: schema for schema in schemas}


SCHEMAS = _read()


@functools.cache
def argument_names(name: str) -> tuple[str, ...]:
    """The names of the arguments of operator ``name``, in their order."""
    return tuple(argument.name for argument in torch._C.parse_schema(SCHEMAS[name]).arguments)
