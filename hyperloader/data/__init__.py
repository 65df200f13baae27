"""Data sets: reading and checking them, the two formulations, multi-task batches.

Importing this package needs torch, numpy and PyYAML; tokenizers and Hugging Face data sets are only touched where they
are used.
"""

from .bio import check_bio, label_list, repair_bio, restore, simplify, spans
from .examples import EncodingReport, Example
from .hub import read_hub
from .readers import parse_json_line, read_split
from .report import report_rows
from .sampler import MultiTaskBatches
from .sentence import DataError, Sentence, make_sentence
from .tasks import Task, load_tasks, subset
from .text_to_text import TextToText, parse_target
from .token_classification import TokenClassification
from .windows import join, split_windows

__all__ = [
    "DataError",
    "EncodingReport",
    "Example",
    "MultiTaskBatches",
    "Sentence",
    "Task",
    "TextToText",
    "TokenClassification",
    "check_bio",
    "join",
    "label_list",
    "load_tasks",
    "make_sentence",
    "parse_json_line",
    "parse_target",
    "read_hub",
    "read_split",
    "repair_bio",
    "report_rows",
    "restore",
    "simplify",
    "spans",
    "split_windows",
    "subset",
]
