"""BIO tags written in other schemes, for tests of what reads them."""


def write_in(scheme: str, tags) -> list[str]:
    """Strict BIO `tags` in `scheme`: bio, iob1, iobes or bilou."""
    written, tags = [], list(tags)
    for position, tag in enumerate(tags):
        following = tags[position + 1] if position + 1 < len(tags) else "O"
        before = tags[position - 1] if position else "O"
        mark, _, name = tag.partition("-")
        if tag == "O" or scheme == "bio":
            written.append(tag)
        elif scheme == "iob1":
            written.append(f"{'B' if mark == 'B' and before[2:] == name else 'I'}-{name}")
        else:
            last = following != f"I-{name}"
            end, single = ("E", "S") if scheme == "iobes" else ("L", "U")
            written.append(f"{(single if last else 'B') if mark == 'B' else (end if last else 'I')}-{name}")
    return written
