"""How a model is trained: every number in one place."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperloader.data.text_to_text import DECODINGS
from hyperloader.validation import LARGEST, check_choice, check_key, is_finite, naming, shown

SCHEDULES = ("linear", "cosine", "constant")
LOSSES = ("mean", "sum")
SAMPLING = ("mixed", "single", "update")
OPTIMIZERS = ("adamw_torch", "adamw_hf")
SELECTIONS = ("best", "last")
TRACKERS = {  # by the names that transformers has for them: what pip installs
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "azure_ml": "azureml-mlflow",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet-ml",
    "dagshub": "dagshub",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "kubeflow": "kubeflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
}
REPORTS = ("auto", "none", *TRACKERS)
_CHOICES = {
    "schedule": SCHEDULES,
    "loss": LOSSES,
    "sampling": SAMPLING,
    "optimizer": OPTIMIZERS,
    "select": SELECTIONS,
    "decoding": DECODINGS,
    "report_to": REPORTS,
}
_AT_LEAST_ONE = (
    "steps",
    "batch_size",
    "bucket",
    "gradient_accumulation",
    "eval_steps",
    "eval_batch_size",
    "save_steps",
    "log_steps",
    "keep_checkpoints",
    "max_length",
)
_NOT_NEGATIVE = (
    "head_base_width",
    "warmup",
    "weight_decay",
    "max_grad_norm",
    "patience",
    "label_smoothing",
    "eval_sentences",
)
_POSITIVE = ("learning_rate", "temperature")
_AT_MOST = {"batch_size": 1 << 16, "eval_batch_size": 1 << 16, "gradient_accumulation": 1 << 16, "max_length": 1 << 20}


def _typed(field: dataclasses.Field, value: Any) -> Any:
    """``value`` in the field's type. A float may also be an int or, as YAML reads ``1e-3``, a string."""
    wanted: Any = field.type
    if wanted is float and not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    elif isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)):
        return value
    kind = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}[wanted]
    raise ValueError(f"{field.name} must be {kind}, got {shown(value)}")


@dataclass(frozen=True)
class TrainingOptions:
    """One run's training. A step is one update of the weights.

    Args:
        steps: updates in all.
        batch_size: sentences in a batch, on each process.
        gradient_accumulation: batches whose gradients make one update.
        learning_rate: peak learning rate.
        head_base_width: the learning rate of the tasks' heads is ``learning_rate · head_base_width / hidden size``, so
            that a step of AdamW moves a label's logit alike at any width; the method ``lora``, with its higher learning
            rate, has 384. 0 for ``learning_rate`` itself, which tasks in words have. For the head
            ``token-classification``.
        warmup: updates of linear warm-up; below 1, a share of ``steps``.
        schedule: after the warm-up, ``linear`` or ``cosine`` decay to zero, or ``constant``.
        optimizer: ``adamw_torch``, or ``adamw_hf``: transformers' own of version 3.5, with epsilon outside the bias
            correction.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm; 0 for no clipping.
        label_smoothing: share of the uniform distribution in the target.
        loss: ``mean`` over the labelled tokens of an update; ``sum`` over those of a batch, and then the mean of the
            batches of an update (which makes clipping act in every update).
        sampling: ``mixed``: every sentence of a batch may belong to another task; ``single``: one task a batch;
            ``update``: one task an update, in all its batches on all processes.
        replacement: draw every sentence of a task independently of the others; without, a sentence comes again when all
            others of its task have come.
        temperature: a task is drawn with probability proportional to size^(1/temperature).
        bucket: mixed batches are drawn this many at a time and cut by length, which saves padding; 1 for none. A run
            with the head ``language-model`` has 32.
        max_length: subword tokens of a source or target; longer sentences are split into windows.
        select: the weights that end in the folder ``best`` and are scored: those that were ``best`` on validation, or
            the ``last``, and then nothing is scored during training.
        decoding: how generated text is read: a word's tag is the one behind its ``sentinel``, or the one in its
            ``position`` after all sentinels are dropped. For the head ``text-to-text``.
        valid_tags: predict the most probable sequence of labels that is BIO (``I-X`` behind ``B-X`` or ``I-X`` alone),
            instead of every word's most probable label. For the head ``token-classification``.
        eval_steps, eval_batch_size: how often the validation sets are scored, and sentences at a time.
        eval_sentences: score at most so many sentences of each task, the same random part every time, on validation
            and on test; 0 for all.
        save_steps, keep_checkpoints: how often a checkpoint is written, and how many are kept.
        log_steps: how often the loss is logged.
        patience: stop after this many evaluations in a row without a better mean F1; 0 for never.
        label_prior: let the heads of a token classifier begin with the shares that their labels have in the training
            data, instead of equal ones.
        bf16: compute in bfloat16, with weights in float32.
        fp16: compute in float16 on a GPU, with weights in float32; the loss is scaled so that small gradients are kept
            (``torch.amp.GradScaler``).
        gradient_checkpointing: recompute activations in the backward pass.
        recompute_norms: make the outputs of norms that LoRA reads again in the backward pass instead of keeping them:
            the same gradients to the bit, and less memory for nearly no time.
        compile: compile the model's forward and backward (``torch.compile``, in one graph for any length).
        report_to: ``auto``: TensorBoard logs where it is installed; ``none``; or one of ``TRACKERS``, which finds its
            own settings in its environment variables.
    """

    steps: int = 3000
    batch_size: int = 32
    gradient_accumulation: int = 1
    learning_rate: float = 5e-3
    head_base_width: float = 960.0
    warmup: float = 0.06
    schedule: str = "linear"
    optimizer: str = "adamw_torch"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    loss: str = "mean"
    sampling: str = "mixed"
    replacement: bool = False
    temperature: float = 2.0
    bucket: int = 8
    max_length: int = 128
    select: str = "best"
    decoding: str = "sentinel"
    valid_tags: bool = True
    eval_steps: int = 250
    eval_batch_size: int = 64
    eval_sentences: int = 0
    save_steps: int = 250
    keep_checkpoints: int = 1
    log_steps: int = 25
    patience: int = 0
    label_prior: bool = True
    bf16: bool = False
    fp16: bool = False
    gradient_checkpointing: bool = False
    recompute_norms: bool = False
    compile: bool = False
    report_to: str = "auto"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _typed(field, getattr(self, field.name)))
        for name, known in _CHOICES.items():
            check_choice(name, getattr(self, name), known)
        for names, holds, requirement in (
            (_AT_LEAST_ONE, lambda value: value >= 1, "at least 1"),
            (_NOT_NEGATIVE, lambda value: value >= 0, "at least 0"),
            (_POSITIVE, lambda value: value > 0, "above 0"),
        ):
            for name in names:
                value, most = getattr(self, name), _AT_MOST.get(name, LARGEST)
                if not (is_finite(value) and holds(value)):
                    raise ValueError(f"{name} must be {requirement}, got {shown(value)}")
                if value > most:
                    raise ValueError(f"{name} must be {requirement} and at most {most}, got {shown(value)}")
        if self.select == "last" and self.patience:
            raise ValueError(
                f"patience must be 0 with select: last, which scores nothing on the way, got {self.patience}"
            )
        if self.bf16 and self.fp16:
            raise ValueError("fp16 must be false with bf16, got both")
        if 256 % self.bucket:
            raise ValueError(f"bucket must be a divisor of 256, got {self.bucket}")
        if self.compile and self.gradient_checkpointing:
            raise ValueError(
                "compile must be false with gradient_checkpointing: true, which cannot be compiled, got true"
            )
        if self.recompute_norms and (self.compile or self.gradient_checkpointing):
            other = "compile" if self.compile else "gradient_checkpointing"
            raise ValueError(f"recompute_norms must be false with {other}: true, which keeps less by itself, got true")
        if self.label_smoothing >= 1:
            raise ValueError(f"label_smoothing must be below 1, got {self.label_smoothing}")

    @property
    def warmup_steps(self) -> int:
        """Updates of warm-up."""
        return int(self.warmup) if self.warmup >= 1 else int(self.warmup * self.steps)

    @property
    def batches(self) -> dict:
        """How ``MultiTaskBatches`` draws, as its arguments."""
        return {
            "temperature": self.temperature,
            "mode": "mixed" if self.sampling == "mixed" else "single",
            "batches_per_task": self.gradient_accumulation if self.sampling == "update" else 1,
            "replacement": self.replacement,
            "bucket": self.bucket,
        }


PRESETS = {
    "default": TrainingOptions(),
    "published": TrainingOptions(  # arXiv 2407.01411
        steps=65536,
        gradient_accumulation=4,
        learning_rate=3e-4,
        head_base_width=0.0,
        warmup=500,
        optimizer="adamw_hf",
        label_smoothing=0.1,
        loss="sum",
        sampling="update",
        replacement=True,
        temperature=10.0,
        label_prior=False,
        valid_tags=False,
        select="last",
        decoding="position",
        eval_steps=1000,
        save_steps=1000,
    ),
}

# What a preset says about the model; a run's ``model`` section comes on top.
# The default ones are from single short runs with a small encoder, scored on validation: adapters without a layer norm
# of their own were 2 points ahead of those with it; a bottleneck of hidden / 8 was 2 points ahead of hidden / 32 at a
# learning rate of 5e-3, and level at 1e-2. Base weights were 1.3 to 1.5 points ahead in runs of 1,000 steps, two seeds.
MODELS = {
    "default": {"init": "scaled", "norm": "none", "reduction_factor": 8, "base_weights": True},
    "published": {"init": "published", "norm": "post", "reduction_factor": 32},
}

# Options of the default preset where a method needs others than TrainingOptions has. All learning rates come from short
# runs with a small encoder (recipes/seven-tasks-study.yaml); full fine-tuning of a large one wants less. With base
# weights a generated weight moves twice a step, by its base and by what is generated: HyperLoader's is lower; a run
# without them has the preset's. At 384 numbers a token the heads of "lora" have its own rate, which is the
# highest: with a higher one F1 fell from 64.3 to 60.7 on the hard mixture.
_OF_METHOD: Mapping[str, Mapping[str, float]] = {
    "hyperloader": {"learning_rate": 3e-3},
    "adapter": {"learning_rate": 3e-3},
    "full": {"learning_rate": 1e-3},
    "lora": {"learning_rate": 1e-2, "head_base_width": 384.0},
}


def training_options(preset: str, method: str, overrides: Mapping | None = None) -> TrainingOptions:
    """The options of ``preset`` for ``method``, with ``overrides``, the section ``training`` of a run; raises
    ``ValueError`` for an unknown name or a bad value."""
    check_choice("preset", preset, PRESETS)
    values = dict(overrides or {})
    for key in values:
        check_key("training option", key, [field.name for field in dataclasses.fields(TrainingOptions)])
    if preset == "default":
        values = {**_OF_METHOD.get(method, {}), **values}
    with naming("training"):
        return dataclasses.replace(PRESETS[preset], **values)
