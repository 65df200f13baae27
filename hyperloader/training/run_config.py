"""A run: what is trained on what, how, and where it goes. YAML in and out."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hyperloader.backbones.quantization import QUANTIZATIONS
from hyperloader.config import DESCRIPTION
from hyperloader.data.heads import HEADS, LANGUAGE_MODEL, TEXT_TO_TEXT, TOKEN_CLASSIFICATION
from hyperloader.data.paths import existing, from_folder, starts_elsewhere, warn_of_working_directory
from hyperloader.data.task_file import TaskEntry, entries_from, read_task_file
from hyperloader.data.tasks import Task, load_task
from hyperloader.data.yaml_text import load, read_yaml
from hyperloader.training.backbone import PACKAGED
from hyperloader.training.methods import FIXED_OPTIONS, METHODS, check_model_options
from hyperloader.training.presets import MODELS, PRESETS, TrainingOptions, training_options
from hyperloader.validation import check_choice, check_key, naming, nearest, shown

SECTIONS = ("model", "training")
_OF_HEAD = {  # training options for one head alone
    "decoding": TEXT_TO_TEXT,
    "head_base_width": TOKEN_CLASSIFICATION,
    "label_prior": TOKEN_CLASSIFICATION,
    "valid_tags": TOKEN_CLASSIFICATION,
}


BACKBONE_DTYPES = ("float32", "bfloat16", "float16")
_OF_FROZEN = {"backbone_quantization": None, "backbone_dtype": "float32"}  # of a frozen backbone, with their defaults


@dataclass(frozen=True)
class RunConfig:
    """One training run.

    Args:
        backbone: a folder, a model of the Hugging Face Hub, ``minilm`` or ``smollm2``.
        tasks: a task file, or the list of tasks that would stand in one.
        output: the folder for checkpoints, metrics and plots.
        head: ``token-classification``, ``text-to-text`` or, of decoders, ``language-model``.
        method: ``hyperloader``, ``hyperformer++``, ``adapter``, ``lora`` or ``full``.
        preset: ``default`` or ``published``.
        model: keys of ``HyperLoaderConfig`` other than tasks and labels.
        training: ``TrainingOptions`` that differ from the preset.
        fraction: share of the training and validation sentences that is used, and none of the test sets' left out.
        data_seed: which sentences those are, and the order they are visited in.
        seed: of the new weights and of dropout.
        backbone_quantization: one of ``hyperloader.backbones.quantization.QUANTIZATIONS``, for the methods that train
            no weight of the backbone but its norms; None for the backbone as it is.
        backbone_dtype: ``float32``, ``bfloat16`` or, with ``training.fp16``, ``float16``, for the same methods: what
            the backbone is loaded and computes in, but for what transformers keeps in float32 (T5's ``wo`` in
            float16). What is trained is float32.
    """

    backbone: str
    tasks: str | list
    output: str
    head: str = TOKEN_CLASSIFICATION
    method: str = "hyperloader"
    preset: str = "default"
    model: Mapping = field(default_factory=dict)
    training: Mapping = field(default_factory=dict)
    fraction: float = 1.0
    data_seed: int = 0
    seed: int = 0
    backbone_quantization: str | None = None
    backbone_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("backbone", "output", "head", "method", "preset"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name} must be a string, got {getattr(self, name)!r:.80}")
        for name in ("model", "training"):
            value = getattr(self, name)
            object.__setattr__(self, name, {} if value is None else value)
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be a mapping, got {value!r:.80}")
        for name, largest in (("data_seed", 2**64 - 1), ("seed", 2**32 - 1)):  # that of numpy
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
                raise ValueError(f"{name} must be a whole number, at least 0 and at most {largest}, got {shown(value)}")
        if isinstance(self.fraction, bool) or not isinstance(self.fraction, int | float) or not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {shown(self.fraction)}")
        if not isinstance(self.tasks, str | list) or not self.tasks:
            raise ValueError(f"tasks must be a task file or a list of tasks, got {self.tasks!r:.80}")
        check_choice("head", self.head, HEADS)
        check_choice("preset", self.preset, PRESETS)
        for option, head in _OF_HEAD.items():
            if option in self.training and self.head != head:
                raise ValueError(f"{option} must only be given for the head {head}, got it for {self.head}")
        check_model_options(self.method, self.model)
        if self.backbone_quantization is not None:
            check_choice("backbone_quantization", self.backbone_quantization, tuple(QUANTIZATIONS))
        check_choice("backbone_dtype", self.backbone_dtype, BACKBONE_DTYPES)
        for name, default in _OF_FROZEN.items():
            if getattr(self, name) != default and self.method not in FIXED_OPTIONS:
                known = ", ".join(FIXED_OPTIONS)
                raise ValueError(f"{name} must be given for the methods {known}, got {self.method}")
        options = self.options
        if self.backbone_dtype == "float16" and not options.fp16:
            raise ValueError(
                "backbone_dtype must be bfloat16 without training.fp16, which scales the loss, got float16"
            )
        if self.has_words and options.head_base_width:
            raise ValueError(
                f"head_base_width must be 0 with task_condition: {DESCRIPTION}, got {options.head_base_width:g}"
            )
        if options.recompute_norms and not (
            self.method == "hyperloader"
            and self.model_options.get("lora_sites", True)
            and self.model_options.get("train_norms", True)
        ):
            raise ValueError("recompute_norms must be false without generated LoRA and trained norms, got true")
        if self.model.get("sparse_gradients") and options.optimizer != "adamw_torch":
            raise ValueError(f"optimizer must be adamw_torch with model.sparse_gradients, got {options.optimizer}")

    @property
    def options(self) -> TrainingOptions:
        """The preset with this run's changes. The texts of a decoder, which differ most in length, have a wider bucket;
        weights that are generated without a base, and so move by one part alone, have the preset's learning rate."""
        of_run: dict[str, float] = {"bucket": 32} if self.head == LANGUAGE_MODEL else {}
        if self.has_words:  # of a head a task's rows and the map of all words are trained side by side, at one rate
            of_run["head_base_width"] = 0.0
        if self.method == "hyperloader" and not self.model_options.get("base_weights", False):
            of_run["learning_rate"] = PRESETS[self.preset].learning_rate
        return training_options(self.preset, self.method, {**of_run, **self.training})

    @property
    def has_words(self) -> bool:
        """Whether the run's model reads its tasks' words."""
        return self.model_options.get("task_condition") == DESCRIPTION

    @property
    def model_options(self) -> dict:
        """What the preset says about the model, as far as the method takes it, with this run's changes."""
        preset = {key: value for key, value in MODELS[self.preset].items() if key in METHODS[self.method]}
        return preset | dict(self.model)

    @classmethod
    def from_yaml(cls, path: str | Path) -> "RunConfig":
        """Read a YAML file. Every path in it is relative to its folder: ``backbone`` and ``dataset`` where they name a
        folder, ``tasks``, ``path`` and ``output``; ``~`` and environment variables are filled in.

        What is not there but in the working directory, where earlier versions looked, is taken from there with a
        warning: a backbone, a data set, an output that holds a run. In the ``config.yaml`` that a run has saved,
        ``output`` is the folder that the file lies in.

        Raises:
            ValueError: with the file's name; an unknown key comes with the nearest valid one.
            FileNotFoundError: no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; give the YAML file of a run")
        values = read_yaml(path, "the file of a run", load)
        if isinstance(values, Mapping) and path.name == "config.yaml" and (path.parent / "labels.json").is_file():
            values = {**values, "output": "."}
        return cls.from_dict(values, source=str(path), folder=path.parent)

    @classmethod
    def from_dict(cls, values: Mapping, source: str = "config", folder: str | Path = ".") -> "RunConfig":
        """The run that ``values`` describe; messages start with ``source``, paths are relative to ``folder``."""
        with naming(source):
            if not isinstance(values, Mapping):
                raise ValueError(f"must hold a mapping, got {values!r:.80}")
            known = [one.name for one in dataclasses.fields(cls)]
            for key in values:
                check_key("key", key, known)
            for key in ("backbone", "tasks", "output"):
                if key not in values:
                    raise ValueError(f"{key} must be given, got none")
            paths = {"backbone": _backbone, "tasks": _absolute, "output": _output}
            return cls(**{**values, **{key: resolve(values[key], Path(folder)) for key, resolve in paths.items()}})

    def with_values(self, changes: Iterable[tuple[str, Any]], source: str) -> "RunConfig":
        """This run with other values of keys as ``seed``, ``training.steps`` or ``model.rank``, one after the other;
        messages start with ``source``, paths are relative to the working directory."""
        values = self.to_dict()
        for key, value in changes:
            section, dot, name = key.partition(".")
            if not dot:
                values[key] = value
            elif section in SECTIONS:
                values[section] = {**values[section], name: value}
            else:
                hint = nearest(section, SECTIONS)
                raise ValueError(f"{source}: key must have {' or '.join(SECTIONS)} before the dot, got {key!r}{hint}")
        return RunConfig.from_dict(values, source=source)

    def to_dict(self) -> dict:
        """Every field, as plain types, of those that earlier versions do not know what differs from the default."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in _OF_FROZEN or value != _OF_FROZEN[name]}

    def to_yaml(self) -> str:
        """``to_dict`` as text that ``from_yaml`` reads; in any folder if the paths are absolute."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def task_entries(self) -> list[TaskEntry]:
        """What the task file, or the list of tasks, says; no sentence is read."""
        return read_task_file(Path(self.tasks)) if isinstance(self.tasks, str) else entries_from(self.tasks)

    def load_tasks(self, names: Collection[str] | None = None) -> list[Task]:
        """All sentences of all tasks, or of those with these ``names``, checked."""
        return [load_task(entry) for entry in self.task_entries() if names is None or entry.name in names]


def _backbone(name: Any, folder: Path) -> Any:
    """``name``, or the folder that it names as a path that holds in every directory."""
    if not isinstance(name, str) or not name or name in PACKAGED or name.startswith("~"):
        return name
    return existing("backbone", name, folder) or name


def _output(name: Any, folder: Path) -> Any:
    """The folder of the run as an absolute path; one that an earlier version has begun in the working directory is
    gone on with there."""
    if not isinstance(name, str) or not name:
        return name
    output, earlier = Path(from_folder(name, folder)), Path(from_folder(name, Path()))
    if earlier != output and (earlier / "config.yaml").is_file() and not (output / "config.yaml").is_file():
        warn_of_working_directory("output", name, earlier, folder)
        return str(earlier)
    return str(output)


def _absolute(tasks: Any, folder: Path) -> Any:
    """Task paths that do not depend on ``folder``; paths that start with an environment variable stay as they are."""
    if isinstance(tasks, str):
        return str(Path(from_folder(tasks, folder)).resolve())
    if not isinstance(tasks, list):
        return tasks

    def resolved(task: Any) -> Any:
        if not isinstance(task, Mapping):
            return task
        path, dataset = task.get("path"), task.get("dataset")
        if isinstance(path, str) and not starts_elsewhere(path):
            return {**task, "path": str((folder / path).resolve())}
        if isinstance(dataset, str) and dataset and not starts_elsewhere(dataset):
            local = existing("dataset", dataset, folder)
            if local is None and dataset.startswith("."):
                local = from_folder(dataset, folder)
            return {**task, "dataset": local or dataset}
        return task

    return [resolved(task) for task in tasks]
