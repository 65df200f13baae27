"""How the data of a run's tasks separate words from punctuation, stored beside its labels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperloader.checkpoints.atomic import write_text
from hyperloader.data.sentence import DataError, Sentence
from hyperloader.data.word_rule import WordRule
from hyperloader.json_file import read_json
from hyperloader.training.run_config import RunConfig

WORDS = "words.json"


def save_word_rules(folder: Path, sentences: Mapping[str, Sequence[Sentence]]) -> None:
    """Write the rule of every task's training sentences to ``folder/words.json``."""
    rules = {task: WordRule.learn(one.tokens for one in some).to_dict() for task, some in sentences.items()}
    write_text(folder / WORDS, json.dumps(rules, ensure_ascii=False))


def load_word_rule(folder: Path, config: RunConfig, task: str) -> WordRule:
    """The rule of one task of the run in ``folder``; of a run that has not kept it, learnt from its training data.

    Raises:
        ValueError: the file is damaged, or there is none and the data cannot be read.
    """
    path = Path(folder) / WORDS
    if path.is_file():
        try:
            return WordRule.from_dict(read_json(path)[task])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: holds no rule for the words of {task!r} ({error}); remove the file") from error
    try:
        (found,) = config.load_tasks([task])
    except DataError as error:
        raise ValueError(
            f"{path}: no such file (the run is of an earlier version), and its data cannot be read ({error}); use "
            "--tokenize spaces"
        ) from error
    return WordRule.learn(one.tokens for one in found.train)
