"""A frozen backbone, and hypernetworks that generate its adapters, LoRA updates and their norms for every task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperloader.backbones import checkpointing
from hyperloader.backbones.cross_attention_bias import stored_bias
from hyperloader.backbones.own_head import check_own_head
from hyperloader.checkpoints import stored_model
from hyperloader.config import HyperLoaderConfig
from hyperloader.model import calling, export, merging, pretrained, trained, weight_provider
from hyperloader.model.attachment import Attachment
from hyperloader.model.new_tasks import add_task, check_trained, freeze_except_task_embedding, unfreeze
from hyperloader.model.sizes import check_fits, check_stored
from hyperloader.nn.bank import WeightBank
from hyperloader.nn.forwards import Forwards
from hyperloader.nn.heads import classify, task_heads
from hyperloader.nn.hypernetwork import hypernetworks
from hyperloader.nn.layout import Layout
from hyperloader.nn.site_weights import ActiveWeights
from hyperloader.nn.table import Table
from hyperloader.nn.task_embedding import TaskEmbedding
from hyperloader.nn.with_backbone import WithBackbone, without_compile


class HyperLoaderModel(WithBackbone):
    """Fine-tunes one frozen ``backbone`` on many tasks (HyperLoader, arXiv 2407.01411).

    Attaching wraps some of the backbone's ``nn.Linear`` layers in place and freezes it; nothing is moved or copied.
    ``detach()`` gives it back as it was. Trained are the hypernetworks, the task embeddings, the backbone's own layer
    norms (``config.train_norms``) and, with ``config.labels``, one token-classification head per task. All that is
    trained is float32, or float64, in a backbone of half precision too: ``.half()`` and ``.to(dtype)`` cast the rest.

    Args:
        backbone: a transformers model of a family in ``hyperloader.backbones.FAMILIES``.
        config: sizes and switches.

    Raises:
        ValueError: an unsupported backbone, one that is attached already, or sizes that do not fit it.
        TypeError: a backbone that is no module, or a config of another type.
    """

    add_task = add_task
    detach = merging.detach
    export_peft = export.export_peft
    export_task = export.export_task
    freeze_except_task_embedding = freeze_except_task_embedding
    merge = merging.merge
    unfreeze = unfreeze
    unmerge = merging.unmerge
    weights_of = weight_provider.weights_of
    accepts_loss_kwargs = False  # tells transformers' Trainer that the loss is a mean, to be divided when accumulating

    def __new__(cls, backbone: nn.Module | None = None, config: HyperLoaderConfig | None = None) -> "HyperLoaderModel":
        return pretrained.new(cls, without_compile(backbone))

    def __init__(self, backbone: nn.Module, config: HyperLoaderConfig):
        nn.Module.__init__(self)
        calling.start_graphs_at_forward(HyperLoaderModel)
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"backbone must be a model of transformers, got {backbone!r:.80}")
        if not isinstance(config, HyperLoaderConfig):
            raise TypeError(f"config must be a HyperLoaderConfig, got {config!r:.80}")
        given, backbone = backbone, without_compile(backbone)
        check_own_head(backbone, config.labels is not None)
        self.hyperloader_config = config
        self.bank = WeightBank()
        self._merged: tuple[str, dict[str, nn.Module]] | None = None
        self._active = ActiveWeights()
        self._forwards = Forwards()
        self._named_tasks: dict[str, calling.NamedTask] = {}
        self._unfrozen: dict[str, bool] | None = None  # what was trained before one task alone was
        self._attachment = Attachment(backbone, config, self._active)
        try:
            check_fits(backbone, config, self._attachment.layouts)
            self._build(self._attachment.layouts, backbone)
            self.to(next(backbone.parameters()).device)
        except BaseException:  # whatever it is, memory or Ctrl-C: the backbone is given back
            self._attachment.undo(backbone)
            raise
        self.backbone = given
        self.train(backbone.training)
        self.register_state_dict_pre_hook(merging.refuse)
        self.register_load_state_dict_pre_hook(merging.refuse)

    def _build(self, layouts: Mapping[str, Layout], backbone: nn.Module) -> None:
        config = self.hyperloader_config
        if config.generator == "table":
            self.generators = nn.ModuleDict({name: Table(config, layout) for name, layout in layouts.items()})
        else:
            self.task_embedding = TaskEmbedding(len(config.tasks), config.task_embedding_dim)
            self.generators = nn.ModuleDict(hypernetworks(config, layouts))
        self.heads = task_heads(backbone, config.labels) if config.labels is not None else None

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Stack -> what is generated for it."""
        return self._attachment.layouts

    @property
    def site_paths(self) -> Mapping[str, tuple[str, int, str]]:
        """Path of every wrapped layer in the backbone -> (stack, layer, site)."""
        return self._attachment.site_paths

    @property
    def generated_dtype(self) -> torch.dtype:
        """The dtype that weights are generated in."""
        return self._attachment.dtype(self.backbone)

    @property
    def norm_names(self) -> list[str]:
        """The backbone's own norms that are trained."""
        return self._attachment.norm_names

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """``forward``, with the hooks of modules; ``torch.compile`` makes one graph for every ``task``."""
        return calling.call(self, super().__call__, arguments, options)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        task: str | None = None,
        task_ids: Tensor | None = None,
        **backbone_arguments: Any,
    ) -> Any:
        """Run the backbone with the weights of ``task``, or of each sentence's own task.

        Args:
            input_ids: (batch, tokens) int64.
            attention_mask: (batch, tokens).
            labels: with ``config.labels`` (batch, tokens), indices into the labels of the sentence's own task, -100
                where nothing is labelled; without them, what the backbone takes.
            task: name of the task of the whole batch.
            task_ids: (batch,) int64, the task of each sentence, an index into the config's tasks.
            backbone_arguments: what else the backbone's ``forward`` takes.

        Returns:
            The backbone's own output or, with ``config.labels``, a ``TokenClassifierOutput`` whose ``loss`` is the mean
            cross entropy over labelled tokens (0 without any) and whose ``logits`` are (batch, tokens, labels of
            ``task``); with ``task_ids`` (batch, tokens, most labels of any task), where the columns beyond the labels
            of a sentence's own task are -inf. These logits have the heads' dtype, not that of the backbone.

        Raises:
            ValueError, TypeError, IndexError: an unknown task, a task id out of range, neither or both of them.
        """
        with self._forwards.running():
            self._check_attached()
            which = weight_provider.which(self.hyperloader_config, task, task_ids, input_ids, backbone_arguments)
            check_trained(self, which)
            if self.heads is None and labels is not None:
                backbone_arguments["labels"] = labels
            with self._active.use(weight_provider.weights_for(self, which)):
                outputs = self.run_backbone(input_ids=input_ids, attention_mask=attention_mask, **backbone_arguments)
            if self.heads is None:
                return outputs
            return classify(self.heads, outputs, labels, which, widest=task is None)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        *,
        task: str | None = None,
        task_ids: Tensor | None = None,
        **generate_arguments: Any,
    ) -> Any:
        """The backbone's ``generate`` with the weights of ``task`` or ``task_ids``, generated once for the whole call.

        Takes every argument of transformers' ``generate``; raises ``TypeError`` for a backbone that cannot generate,
        and what ``forward`` raises.
        """
        with self._forwards.running():
            self._check_attached()
            if not callable(getattr(self.backbone, "generate", None)) or not self.backbone.can_generate():
                raise TypeError(f"backbone must be able to generate, got {type(self.backbone).__name__}")
            which = weight_provider.which(self.hyperloader_config, task, task_ids, input_ids, generate_arguments)
            with self._active.use(weight_provider.weights_for(self, which)):
                return self.backbone.generate(input_ids=input_ids, **generate_arguments)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping | None = None, **backbone_arguments: Any
    ) -> None:
        """Recompute the backbone's layers in the backward instead of keeping what is inside them.

        Takes what the backbone's own method takes; raises ``ValueError`` for reentrant checkpointing.
        """
        arguments = dict(gradient_checkpointing_kwargs or {})
        if arguments.pop("use_reentrant", False):
            raise ValueError(
                "use_reentrant must be False: reentrant checkpointing cannot differentiate generated weights"
            )
        arguments |= {"use_reentrant": False, "context_fn": self._active.checkpoint_contexts}
        checkpointing(self.backbone, "enable")(arguments, **backbone_arguments)

    def gradient_checkpointing_disable(self) -> None:
        """Undo ``gradient_checkpointing_enable``."""
        checkpointing(self.backbone, "disable")()

    def train(self, mode: bool = True) -> "HyperLoaderModel":
        """Set training or evaluation mode. In training the weight bank is empty."""
        if mode:
            self.bank.clear()
        return nn.Module.train(self, mode)

    def _apply(self, fn, recurse=True):  # what .to(), .half(), .cuda() come down to
        self.bank.clear()  # it would keep the memory of before alive
        self._named_tasks.clear()
        return super()._apply(trained.kept_wide(self, fn), recurse)

    def trainable_state(self, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What is trained, and a bias of the cross-attention, by name: all that a checkpoint has to hold.

        The values are those of ``state_dict``, None for the model's own.
        """
        return trained.state(self, state_dict)

    saved_state = trainable_state

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def print_trainable_parameters(self) -> None:
        """Print the number of trained parameters, of all parameters, and the share."""
        self._check_has_backbone()
        count, total = self.trainable_parameters(), sum(parameter.numel() for parameter in self.parameters())
        print(f"trainable parameters: {count:,} | all parameters: {total:,} | trainable: {count / total:.2%}")

    def save_pretrained(
        self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None, is_main_process: bool = True
    ) -> None:
        """Write ``model.safetensors`` (what is trained) and ``hyperloader.json`` (config, backbone) to ``folder``.

        Both are written aside and then renamed: a failure leaves what was there. As transformers' Trainer wants it,
        ``state_dict`` holds the values instead of this model, and of several processes the main one alone writes.
        """
        self._check_attached()
        if is_main_process:
            tensors = self.trainable_state(state_dict)
            stored_model.save(folder, tensors, self.hyperloader_config, self.backbone, self.norm_names)

    @classmethod
    def from_pretrained(cls, folder: str | Path, backbone: nn.Module | None = None) -> "HyperLoaderModel":
        """Load what ``save_pretrained`` wrote.

        Args:
            folder: a local folder.
            backbone: the backbone that it was trained with; None loads the one named in the checkpoint.

        Returns:
            The model, in evaluation mode.

        Raises:
            FileNotFoundError, ValueError: a missing, truncated or foreign file, or another backbone.
        """
        stored = stored_model.load(folder)
        backbone = stored.load_backbone() if backbone is None else backbone
        plain = without_compile(backbone)
        with stored_bias(plain, stored.tensors) as added:
            stored.check_backbone(plain)
            check_stored(stored, plain)
            model = cls(backbone, stored.config)
            try:
                stored.check_tensors(model.trainable_state())
            except ValueError:
                model.detach()
                raise
        model._attachment.added_bias = added
        trained.load(model, stored.tensors)
        return model.eval()

    def _check_attached(self) -> None:
        self._check_has_backbone()
        merging.refuse(self)

    def _check_has_backbone(self) -> None:
        if "backbone" not in self._modules:
            raise RuntimeError("this model has no backbone since detach(); attach a new HyperLoaderModel to it")
