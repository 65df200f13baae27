"""Three small slot-filling tasks made by grammars: the data of ``hyperloader demo``.

The tasks share names, people, places and times, and whole sentences too, but each labels them in its own way:
"golden lantern with maria tonight at eight" is a restaurant and a time in one task, a song and its artist in the
second, an event, a guest, a date and a time in the third. Only the task tells which reading is meant.

A template is plain words with three marks:
    (a|b|c)        one of the alternatives, one of which may be empty
    {label:pool}   a value of the pool, marked as a span of ``label``; {label:one+two} is one span of two values
    {pool}         a value of the pool that this task does not label

Values are divided among the splits by their place in the pool: of five, three belong to training, one to validation
and one to test, so that no name, person, place or time of the test sentences was seen in training.
"""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from hyperloader.data.sentence import Sentence
from hyperloader.validation import check_choice

SPLITS = ("train", "validation", "test")
SPLIT_OF_PLACE = ("train", "train", "test", "validation", "train")  # of value number i: SPLIT_OF_PLACE[i % 5]
ALTERNATIVES = re.compile(r"\(([^()]*)\)")
PART = re.compile(r"\{(?:(?P<label>\w+):)?(?P<pools>[\w+]+)\}|(?P<word>[^\s{}]+)")


def _pairs(first: str, second: str) -> list[str]:
    """Every word of ``first`` before every word of ``second``, neighbours in the list differing in both words."""
    first_words, second_words = first.split(), second.split()
    return [
        f"{a} {second_words[(i + shift) % len(second_words)]}"
        for shift in range(len(second_words))
        for i, a in enumerate(first_words)
    ]


def _values(text: str) -> list[str]:
    return [value.strip() for value in text.split(",")]


POOLS: dict[str, list[str]] = {
    "name": _pairs(
        "golden blue silver crimson midnight velvet broken hidden lonely burning paper wild emerald quiet crystal",
        "lantern river garden moon harvest mirror island orchid thunder castle meadow sparrow bridge ocean",
    ),
    "person": _values(
        "maria, john smith, peter, aisha khan, lucas, emma, oliver stone, nina, hannah lee, carlos, sofia, "
        "david chen, leila, martin, rosa diaz, victor, julia, omar, grace kelly, felix, anna, tom baker, irene, "
        "samuel, zoe miller, robert, clara, diego, mona, henry ford, alice, marcus, priya, jonas, eva long, simon, "
        "laura, kevin hart, fatima, george, daniel, nora, ivan, paula west, hugo"
    ),
    "city": _values(
        "paris, berlin, boston, new york, madrid, tokyo, chicago, rome, san diego, london, dublin, seattle, vienna, "
        "los angeles, oslo, denver, lisbon, hong kong, prague, miami, athens, toronto, new orleans, zurich, cairo, "
        "dallas, milan, sydney, las vegas, munich"
    ),
    "day": _values(
        "tonight, tomorrow, monday, next friday, this weekend, today, sunday, next tuesday, tomorrow morning, "
        "the first of may, wednesday, this evening, this thursday, saturday, next week, friday, the third of june, "
        "this afternoon, next wednesday, tomorrow evening, this friday, next saturday, the tenth of march, "
        "this monday, on christmas eve, thursday, next month, tomorrow night, the second of july, next sunday"
    ),
    "clock": [
        f"{start} {hour}{end}"
        for end in ("", " thirty", " fifteen", " forty five")
        for hour in ("eight", "seven", "nine", "noon" if not end else "twelve", "six", "five", "ten", "eleven", "one")
        for start in ("at", "around", "after")
    ],
    "number": _values("two, four, six, three, eight, five, ten, seven, twelve, nine"),
    "cuisine": _values(
        "italian, thai, mexican, french, korean, indian, greek, lebanese, japanese, vietnamese, spanish, chinese, "
        "turkish, ethiopian, moroccan, sushi, pizza, ramen, seafood, vegan, burger, barbecue, peruvian, tapas, noodle"
    ),
    "genre": _values(
        "jazz, rock, techno, classical, reggae, soul, folk, salsa, metal, country, hip hop, blues, disco, punk, opera, "
        "gospel, latin, heavy metal, ambient, swing, funk, bluegrass, house, grunge, flamenco"
    ),
    "event": _values(
        "dentist appointment, team meeting, piano lesson, birthday party, job interview, yoga class, board meeting, "
        "parent evening, haircut, tennis match, budget review, book club, doctor visit, driving lesson, "
        "farewell party, project review, wedding, staff lunch, swimming class, flu shot, car inspection, "
        "choir practice, conference, garden party, staff meeting"
    ),
}

# Sentences that all three tasks hear; READINGS says what each task takes the words in capitals for.
SHARED = (
    "(please|) (find|get|add|i want) NAME (with|by) PERSON CLOCK",
    "(find|add|check|i want) NAME DAY CLOCK (please|)",
    "(find|get|add|show) NAME with PERSON (in|near) CITY",
    "NAME with PERSON DAY CLOCK",
    "(find|get|show) NAME (in|near) CITY DAY",
)
READINGS: dict[str, dict[str, str]] = {
    "restaurant": {
        "NAME": "{restaurant:name}",
        "PERSON": "{person}",
        "CITY": "{place:city}",
        "DAY CLOCK": "{time:day+clock}",
        "DAY": "{time:day}",
        "CLOCK": "{time:clock}",
    },
    "music": {
        "NAME": "{song:name}",
        "PERSON": "{artist:person}",
        "CITY": "{city}",
        "DAY CLOCK": "{day} {clock}",
        "DAY": "{day}",
        "CLOCK": "{clock}",
    },
    "calendar": {
        "NAME": "{event:name}",
        "PERSON": "{guest:person}",
        "CITY": "{place:city}",
        "DAY CLOCK": "{date:day} {time:clock}",
        "DAY": "{date:day}",
        "CLOCK": "{time:clock}",
    },
}
OWN: dict[str, tuple[str, ...]] = {
    "restaurant": (
        "(please|) (book|reserve|get) a table for {party:number} at {restaurant:name} {time:day+clock}",
        "(find|show me|recommend) a {cuisine:cuisine} (place|restaurant) in {place:city}",
        "(is there|i need) a good {cuisine:cuisine} restaurant near {place:city} for {party:number} people",
        "book {restaurant:name} in {place:city} for {party:number} (under the name of {person}|)",
        "(can we|we want to) eat {cuisine:cuisine} food {time:day}",
    ),
    "music": (
        "(please|) play {song:name} (by {artist:person}|)",
        "(play|queue) {number:number} {genre:genre} songs by {artist:person}",
        "add {song:name} to my {genre:genre} playlist",
        "(play|put on) some {genre:genre} (music|) {day}",
        "(play|find) the album {album:name} by {artist:person}",
        "wake me up with {song:name} {clock}",
    ),
    "calendar": (
        "(schedule|add|set up) a {event:event} with {guest:person} {date:day} {time:clock}",
        "(please|) remind me about the {event:event} {date:day}",
        "(move|change) my {event:event} to {date:day} {time:clock}",
        "invite {guest:person} to {event:name} in {place:city}",
        "(cancel|book) the {event:event} {time:clock}",
    ),
}
TASKS = tuple(READINGS)
TASK_FILE = "tasks.yaml"
SHARED_SHARE = 0.4  # of a task's sentences


def sentences(task: str, split: str, count: int, seed: int = 0) -> list[Sentence]:
    """``count`` different sentences of a task, the same for the same arguments on every machine.

    Args:
        task: one of ``TASKS``: "restaurant", "music", "calendar".
        split: "train", "validation" or "test"; no two of them share a slot value.
        count: number of sentences, at least 0.
        seed: any integer; another seed gives other sentences with the same values.

    Raises:
        ValueError: for an unknown task or split, a negative count, or a count that the grammar cannot reach.
    """
    check_choice("task", task, TASKS)
    check_choice("split", split, SPLITS)
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    random_source = random.Random(f"{seed} {task} {split}")
    found: dict[Sentence, None] = {}
    for _ in range(20 * count + 20):
        if len(found) == count:
            return list(found)
        own = random_source.random() >= SHARED_SHARE
        template = _pick(random_source, OWN[task] if own else SHARED)
        found.setdefault(_sentence(random_source, _read(template, task), split))
    raise ValueError(f"count must be within what the grammar of {task!r} can make for {split}, got {count}")


def values(pool: str, split: str) -> list[str]:
    """The values of a pool that belong to a split."""
    return [value for place, value in enumerate(POOLS[pool]) if SPLIT_OF_PLACE[place % len(SPLIT_OF_PLACE)] == split]


def write(folder: str | Path, *, train: int = 400, validation: int = 100, test: int = 100, seed: int = 0) -> Path:
    """Writes FOLDER/<task>/<split>.jsonl for every task and FOLDER/tasks.yaml, and returns its path."""
    folder = Path(folder)
    for task in TASKS:
        (folder / task).mkdir(parents=True, exist_ok=True)
        for split, count in zip(SPLITS, (train, validation, test), strict=True):
            lines = [
                json.dumps({"tokens": sentence.tokens, "tags": sentence.tags}) + "\n"
                for sentence in sentences(task, split, count, seed)
            ]
            (folder / task / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    task_file = folder / TASK_FILE
    entries = [f"  - {{name: {task}, path: {task}}}\n" for task in TASKS]
    task_file.write_text("tasks:\n" + "".join(entries), encoding="utf-8")
    return task_file


_T = TypeVar("_T")


def _pick(random_source: random.Random, choices: Sequence[_T]) -> _T:
    """One of ``choices``; made of ``random()`` alone, the one draw whose sequence Python promises never to change."""
    return choices[int(random_source.random() * len(choices))]


def _read(template: str, task: str) -> str:
    """A shared template with the words in capitals replaced by what ``task`` takes them for."""
    for words, reading in READINGS[task].items():
        template = re.sub(rf"\b{words}\b", reading, template)
    return template


def _sentence(random_source: random.Random, template: str, split: str) -> Sentence:
    template = ALTERNATIVES.sub(lambda match: _pick(random_source, match[1].split("|")), template)
    tokens: list[str] = []
    tags: list[str] = []
    for part in PART.finditer(template):
        if part["word"]:
            words, label = [part["word"]], None
        else:
            words = [w for pool in part["pools"].split("+") for w in _pick(random_source, values(pool, split)).split()]
            label = part["label"]
        tokens += words
        tags += [f"B-{label}"] + [f"I-{label}"] * (len(words) - 1) if label else ["O"] * len(words)
    return Sentence(tokens=tuple(tokens), tags=tuple(tags))
