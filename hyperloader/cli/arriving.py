"""Lines of a stream as they arrive, decoded, or what is wrong with one."""

import re
from collections.abc import Iterator
from io import BufferedReader
from typing import BinaryIO, cast

from hyperloader.data.sentence import DataError

LONGEST = 4 << 20  # bytes of a line
_LINE_END = re.compile(rb"\r\n|\n|\r")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def arriving_lines(source: BinaryIO) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first line, the complete lines that one read has brought), never waiting for a full buffer.

    A line ends with a line feed, a carriage return, or both. One that is longer than ``LONGEST`` comes as it is so far,
    and is the last.
    """
    number, rest, read = 1, b"", cast(BufferedReader, source).read1
    while data := read(1 << 16):
        rest += data
        whole = len(rest) - rest.endswith(b"\r")  # a line feed may follow
        *lines, begun = _LINE_END.split(rest[:whole])
        rest = begun + rest[whole:]
        if lines:
            yield number, lines
            number += len(lines)
        if len(rest) > LONGEST:
            yield number, [rest]
            return
    if rest:
        yield number, [rest.removesuffix(b"\r")]


def decoded(line: bytes, where: str) -> str:
    """The text of a line, without byte-order marks at its start.

    Raises:
        DataError: too long, no UTF-8, or a byte that is in no text.
    """
    if len(line) > LONGEST:
        raise DataError(f"{where}: the line must have at most {LONGEST >> 20} MiB, got more; write one sentence a line")
    if b"\0" in line:
        raise DataError(f"{where}: a zero byte, so that this is a binary file or UTF-16; give text in UTF-8")
    try:
        return line.decode("utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        hint = "it looks like UTF-16" if line.startswith(_UTF16) else "another encoding, or a binary file"
        raise DataError(f"{where}: byte 0x{byte:02x} is not UTF-8 ({hint}); convert the input to UTF-8") from None
