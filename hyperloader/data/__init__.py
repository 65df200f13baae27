"""Data sets: reading and checking them, the formulations, multi-task batches.

Importing this package needs torch, numpy and PyYAML; tokenizers and Hugging Face data sets are only touched where they
are used.
"""

from hyperloader.data.bio import check_bio, label_list, repair_bio, restore, simplify, spans
from hyperloader.data.examples import EncodingReport, Example
from hyperloader.data.hub import read_hub
from hyperloader.data.labelled_text import LabelledText
from hyperloader.data.readers import parse_json_line, read_split
from hyperloader.data.report import report_rows
from hyperloader.data.sampler import MultiTaskBatches
from hyperloader.data.sentence import DataError, Sentence, make_sentence
from hyperloader.data.tasks import Task, load_tasks, subset
from hyperloader.data.text_to_text import TextToText, parse_target
from hyperloader.data.token_classification import TokenClassification
from hyperloader.data.windows import join, split_windows

__all__ = [
    "DataError",
    "EncodingReport",
    "Example",
    "LabelledText",
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
