"""Every size and switch of a HyperLoader model, validated once."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hyperloader.json_file import read_json
from hyperloader.task_words import check_descriptions, check_label_words, check_labels, check_no_words, names_of
from hyperloader.validation import (
    check_choice,
    check_names,
    check_positive,
    check_share,
    check_switch,
    check_whole,
    is_finite,
    naming,
    nearest,
    shown,
)

ADAPTER_SITES = ("feed_forward", "self_attention")  # in the order of their positions
LORA_SITES = ("self_attention.query", "self_attention.value", "cross_attention.query", "cross_attention.value")
MORE_LORA_SITES = (  # on request
    "self_attention.key",
    "self_attention.output",
    "cross_attention.key",
    "cross_attention.output",
    "feed_forward.gate",
    "feed_forward.up",
    "feed_forward.down",
)
POSITIONS = {site: position for position, site in enumerate(ADAPTER_SITES + LORA_SITES + MORE_LORA_SITES)}
ACTIVATIONS = ("gelu_new", "gelu", "relu", "silu")
NORMS = ("post", "pre", "both", "none")
GENERATORS = ("hypernetwork", "table")
INITS = ("published", "scaled")
KINDS = ("tagging", "classification", "multi-label", "regression")  # what a task with a head asks
TAGGING, CLASSIFICATION, MULTI_LABEL, REGRESSION = KINDS
TASK_CONDITIONS = NAME, DESCRIPTION = ("name", "description")  # what tells the hypernetwork which task it is for
TEXT_ENCODERS = BACKBONE, MINILM = ("backbone", "minilm")

_SIZES = ("task_embedding_dim", "condition_hidden_dim", "condition_dim", "reduction_factor", "rank")
_SWITCHES = ("condition_norm", "train_norms", "hypernetwork_per_stack", "base_weights", "sparse_gradients")
_CHOICES = {"activation": ACTIVATIONS, "norm": NORMS, "generator": GENERATORS, "init": INITS}
_CHOICES |= {"task_condition": TASK_CONDITIONS, "text_encoder": TEXT_ENCODERS}
_POSITIVE = ("lora_alpha", "norm_eps", "condition_eps")


@dataclass(frozen=True)
class HyperLoaderConfig:
    """Sizes and switches of a HyperLoader model (arXiv 2407.01411). The defaults are the published ones.

    Args:
        tasks: names of the tasks, any distinct strings; a task's index in this list is its id.
        labels: BIO labels of every task. With them the model gets one token-classification head per task; without
            them the backbone's own head computes the loss (text-to-text).
        task_embedding_dim: numbers in a task, layer or position embedding.
        condition_hidden_dim: hidden units of the network that makes the condition.
        condition_dim: numbers in a condition, the input of every weight head.
        adapter_sites: where adapters sit, any of ``ADAPTER_SITES``; ``()`` for none.
        lora_sites: where LoRA sits, any of ``LORA_SITES`` and, on request, ``MORE_LORA_SITES``; ``()`` for none. A
            backbone without cross-attention generates nothing for the cross-attention sites.
        reduction_factor: the bottleneck has ``hidden // reduction_factor`` units.
        bottleneck: units of the bottleneck, instead of ``reduction_factor``.
        rank: rank of the LoRA updates.
        lora_alpha: LoRA updates are scaled by ``lora_alpha / rank``.
        activation: of the adapters, any of ``ACTIVATIONS``.
        norm: where an adapter normalises: its ``post`` side, its ``pre`` side, ``both`` or ``none``.
        norm_eps: epsilon of the adapters' layer norms.
        condition_norm: whether a layer norm ends the condition network.
        condition_eps: its epsilon.
        train_norms: whether the backbone's own norms are trained.
        hypernetwork_per_stack: one hypernetwork for the encoder and one for the decoder, or one for both, which then
            numbers the decoder's layers after the encoder's.
        generator: ``hypernetwork``, or ``table``: every weight of every task is a parameter of its own (plain adapters
            and LoRA, one set per task, nothing shared).
        base_weights: whether every layer and site has weights of its own, shared by all tasks, that what is generated
            is added to.
        init: ``published`` (every weight normal with deviation 0.01) or ``scaled`` (a new model computes exactly what
            its backbone does, and one learning rate fits all sizes; see ``hyperloader.nn.hypernetwork``).
        kinds: what each task asks of its head, any of ``KINDS``; ``tagging`` where a task is not named. All others read
            the mean over the tokens of a sentence; a regression has one label.
        units: mean and standard deviation of a regression's labels: it computes ``(value - mean) / deviation``. (0, 1)
            where a task is not named.
        sites: for a backbone of no known family, or instead of what its family names: site -> path of its linear layer
            with ``*`` for the number of the layer, such as ``model.layers.*.self_attn.q_proj``; with several stacks a
            list of paths. ``[0:512]`` behind it are those outputs of a fused projection. ``adapter_sites`` and
            ``lora_sites`` say which are used.
        task_condition: ``name``: a task's embedding is a row of its own; ``description``: that row and a trained map of
            a frozen embedding of its words, see ``hyperloader.nn.described``. So are the rows of its head.
        descriptions: with ``task_condition="description"``, of every task what it is about: a text, or several
            phrasings, of which training draws one a step; afterwards the first counts.
        label_words: words for labels, of a tagger for types of spans, where their names do not say it.
        text_encoder: what embeds them: the ``backbone``, as it was before training, or ``minilm``.
        row_dropout: share of the steps in which a task is left with its words alone.
        sparse_gradients: whether a step of training costs what its batch costs, however many tasks there are: the task
            embedding's gradient and those of the heads are sparse and hold the rows of the batch's tasks alone. They
            want ``hyperloader.optim.RowAdamW``, which leaves the rows of other tasks as they are, where AdamW's decay
            and momentum reach all. The heads are then two parameters; what is saved is the same.

    Raises:
        ValueError, TypeError: an invalid value, with the name of the argument.
    """

    tasks: Sequence[str]
    labels: Mapping[str, Sequence[str]] | None = None
    task_embedding_dim: int = 64
    condition_hidden_dim: int = 128
    condition_dim: int = 64
    adapter_sites: Sequence[str] = ("self_attention", "feed_forward")
    lora_sites: Sequence[str] = LORA_SITES
    reduction_factor: int = 32
    bottleneck: int | None = None
    rank: int = 8
    lora_alpha: float = 8.0
    activation: str = "gelu_new"
    norm: str = "post"
    norm_eps: float = 1e-5
    condition_norm: bool = True
    condition_eps: float = 1e-6
    train_norms: bool = True
    hypernetwork_per_stack: bool = True
    generator: str = "hypernetwork"
    base_weights: bool = False
    init: str = "published"
    kinds: Mapping[str, str] | None = None
    units: Mapping[str, Sequence[float]] | None = None
    sites: Mapping[str, str | Sequence[str]] | None = None
    task_condition: str = NAME
    descriptions: Mapping[str, str | Sequence[str]] | None = None
    label_words: Mapping[str, Mapping[str, str]] | None = None
    text_encoder: str = BACKBONE
    row_dropout: float = 0.5
    sparse_gradients: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", check_names("tasks", self.tasks))
        if not self.tasks:
            raise ValueError("tasks must name at least one task, got none")
        for site_argument, known in (
            ("adapter_sites", ADAPTER_SITES),
            ("lora_sites", LORA_SITES + MORE_LORA_SITES),
        ):
            sites = check_names(site_argument, getattr(self, site_argument))
            for site in sites:
                check_choice(site_argument, site, known)
            object.__setattr__(self, site_argument, tuple(sorted(sites, key=POSITIONS.__getitem__)))
        if self.sites is not None:
            object.__setattr__(self, "sites", check_sites(self.sites))
            for site in self.sites if self.lora_sites else ():
                if site in MORE_LORA_SITES and site not in self.lora_sites:
                    raise ValueError(f"lora_sites must name {site!r} of sites, got {', '.join(self.lora_sites)}")
        for name in _SIZES:
            check_whole(name, getattr(self, name))
        if self.bottleneck is not None:
            check_whole("bottleneck", self.bottleneck)
        for name in _SWITCHES:
            check_switch(name, getattr(self, name))
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if self.init == "scaled" and not self.condition_norm:
            raise ValueError("init must be 'published' without a condition_norm, which the scaled one counts on")
        if self.base_weights and self.generator == "table":
            raise ValueError("base_weights must be False with generator 'table', which shares nothing")
        if self.sparse_gradients and self.generator == "table":
            raise ValueError(
                "sparse_gradients must be False with generator 'table', whose weights have dense gradients"
            )
        if self.sparse_gradients and self.task_condition != NAME:
            raise ValueError(f"sparse_gradients must be False with task_condition {self.task_condition!r}")
        for name in _POSITIVE:
            check_positive(name, getattr(self, name))
        if self.labels is not None:
            object.__setattr__(self, "labels", check_labels(self.labels, self.tasks))
        object.__setattr__(self, "kinds", _kinds(self.kinds, self.labels))
        object.__setattr__(self, "units", _units(self.units, self.kinds or {}))
        check_share("row_dropout", self.row_dropout)
        if self.task_condition == NAME:
            check_no_words(self.descriptions, self.label_words)
        elif self.generator == "table":
            raise ValueError(f"task_condition must be {NAME!r} with generator 'table', which has no condition")
        else:
            names = self.labels and {t: names_of(self.labels[t], self.kind_of(t) == TAGGING) for t in self.tasks}
            object.__setattr__(self, "descriptions", check_descriptions(self.descriptions, self.tasks))
            object.__setattr__(self, "label_words", check_label_words(self.label_words, self.tasks, names))

    def kind_of(self, task: str) -> str:
        """What ``task`` asks of its head, one of ``KINDS``."""
        return (self.kinds or {}).get(task, TAGGING)

    @property
    def scaling(self) -> float:
        """What a LoRA update is multiplied by."""
        return self.lora_alpha / self.rank

    @property
    def num_positions(self) -> int:
        """Rows of a position embedding: the adapters' two, those of ``LORA_SITES`` in a model with LoRA, and all in one
        with any of ``MORE_LORA_SITES``."""
        if any(site in MORE_LORA_SITES for site in self.lora_sites):
            return len(POSITIONS)
        return len(ADAPTER_SITES) + (len(LORA_SITES) if self.lora_sites else 0)

    def bottleneck_of(self, hidden: int) -> int:
        """Units of an adapter's bottleneck in a backbone ``hidden`` wide."""
        bottleneck = self.bottleneck or hidden // self.reduction_factor
        if bottleneck < 1:
            raise ValueError(
                f"reduction_factor must be at most the backbone's hidden size {hidden}, got {self.reduction_factor}"
            )
        return bottleneck

    def task_id(self, task: str) -> int:
        """Index of ``task`` in ``tasks``."""
        if not isinstance(task, str):
            raise TypeError(f"task must be a task's name, got {shown(task)}; a batch of several tasks takes task_ids")
        check_choice("task", task, self.tasks, "tasks")
        return self.tasks.index(task)

    def to_dict(self) -> dict:
        """Every field, as plain JSON types."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping) -> "HyperLoaderConfig":
        """The configuration that ``to_dict`` wrote; raises ``ValueError`` for an unknown key."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"unknown key {shown(key)} in the HyperLoader config{nearest(key, known)}")
        if "tasks" not in values:
            raise ValueError("tasks must be given in the HyperLoader config, got none")
        return cls(**values)

    def to_json(self, path: str | Path) -> None:
        """Write ``to_dict`` to ``path``."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> "HyperLoaderConfig":
        """Read what ``to_json`` wrote."""
        values = read_json(path)
        with naming(path):
            return cls.from_dict(values)


def check_sites(sites: Any) -> dict[str, tuple[str, ...]]:
    """``sites`` as a mapping of sites to patterns; raises ``ValueError`` or ``TypeError`` for anything else."""
    if not isinstance(sites, Mapping) or not sites:
        raise TypeError(f"sites must map sites to paths of layers, got {shown(sites)}")
    for site in sites:
        check_choice("sites", site, POSITIONS)
    return {
        site: check_names(f"sites[{site!r}]", [paths] if isinstance(paths, str) else paths)
        for site, paths in sites.items()
    }


def _kinds(kinds: Any, labels: Mapping[str, Sequence[str]] | None) -> dict[str, str] | None:
    """``kinds`` without what is the default; None where nothing is left."""
    _check_mapping("kinds", "tasks to kinds", kinds, labels or {})
    for task, kind in (kinds or {}).items():
        check_choice(f"kinds[{task!r}]", kind, KINDS)
        if kind == REGRESSION and labels and len(labels[task]) > 1:
            raise ValueError(f"labels[{task!r}] must be one for a regression, got {len(labels[task])}")
    return {task: kind for task, kind in (kinds or {}).items() if kind != TAGGING} or None


def _units(units: Any, kinds: Mapping[str, str]) -> dict[str, tuple[float, float]] | None:
    regressions = {task: kind for task, kind in kinds.items() if kind == REGRESSION}
    _check_mapping("units", "regressions to (mean, deviation)", units, regressions)
    for task, pair in (units or {}).items():
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(one, int | float) for one in pair):
            raise TypeError(f"units[{task!r}] must be two numbers, mean and deviation, got {shown(pair)}")
        if not is_finite(pair[0]):
            raise ValueError(f"units[{task!r}] must have a finite mean, got {shown(pair)}")
        check_positive(f"the deviation in units[{task!r}]", pair[1])
    return {task: (float(mean), float(deviation)) for task, (mean, deviation) in (units or {}).items()} or None


def _check_mapping(argument: str, what: str, values: Any, known: Collection[str]) -> None:
    if values is not None and not isinstance(values, Mapping):
        raise TypeError(f"{argument} must map {what}, got {shown(values)}")
    for task in values or ():
        if task not in known:
            raise ValueError(
                f"{argument} must name {'tasks with labels' if argument == 'kinds' else 'regressions'} alone, got "
                f"{shown(task)}{nearest(task, known)}"
            )
