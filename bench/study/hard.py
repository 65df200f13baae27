"""python -m bench.study.hard FOLDER: a mixture that is hard to begin with, made from the data sets.

What a default that is tuned on short questions has never seen: long sentences with few spans. Neighbouring sentences of
a data set are joined, and of their types of spans a few keep their labels.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import command

JOINED = 4  # sentences in one
KEPT = {  # of each data set, the types of spans that keep their labels
    "mit_movie_trivia": ("Award", "Origin", "Relationship"),
    "mit_restaurant": ("Amenity", "Hours"),
    "atis": ("airline_name", "cost_relative", "meal_description"),
    "mtop": ("PERSON_REMINDED", "MUSIC_GENRE", "LOCATION"),
}
SIZES = {"train": 1000, "validation": 150, "test": 300}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.study.hard", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    given = parser.parse_args()
    for name, kept in KEPT.items():
        for split, size in SIZES.items():
            lines = (given.data / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
            found = list(joined([json.loads(line) for line in lines], kept))[:size]
            path = given.folder / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
            words = sum(len(one["tokens"]) for one in found) / len(found)
            spans = sum(tag.startswith("B-") for one in found for tag in one["tags"]) / len(found)
            print(f"{path}: {len(found)} sentences, {words:.1f} words and {spans:.2f} spans each")


def joined(sentences: list[dict], kept: Sequence[str]) -> Iterator[dict]:
    """Every ``JOINED`` neighbours as one sentence with the spans of the types ``kept``."""
    for begin in range(0, len(sentences) - JOINED + 1, JOINED):
        part = sentences[begin : begin + JOINED]
        tags = [tag if tag[2:] in kept else "O" for one in part for tag in one["tags"]]
        yield {"tokens": [token for one in part for token in one["tokens"]], "tags": tags}


if __name__ == "__main__":
    sys.exit(command.run(main))
