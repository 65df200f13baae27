"""What `hyperloader predict` writes, and a file of columns for it."""

import json

COLUMNS = "play S-x\nit O\n\nstop U-y\n"


def answers(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]
