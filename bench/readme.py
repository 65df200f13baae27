"""The parts of the README that commands write."""

from pathlib import Path

README = Path("README.md")


def put(name: str, text: str) -> None:
    """Put ``text`` between the marks ``<!-- name: begin -->`` and ``<!-- name: end -->``, and print it."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before = README.read_text(encoding="utf-8")
    if begin not in before or end not in before.partition(begin)[2]:
        raise ValueError(f"{README}: must hold the marks {begin} and {end}, in this order")
    head, rest = before.split(begin, 1)
    README.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")
    print(text)
