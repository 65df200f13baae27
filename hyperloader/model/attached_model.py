"""A backbone with what generates its weights: attaching, precision, state, saving and loading, detaching."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from hyperloader.backbones import checkpointing, is_checkpointing
from hyperloader.backbones.compiled import without_compile
from hyperloader.backbones.cross_attention_bias import stored_bias
from hyperloader.backbones.own_head import check_own_head
from hyperloader.checkpoints import stored_model
from hyperloader.checkpoints.hub import local_folder
from hyperloader.checkpoints.tensors import check_shapes
from hyperloader.config import MINILM, HyperLoaderConfig
from hyperloader.model import trained
from hyperloader.model.attachment import Attachment
from hyperloader.model.backbone_wrapper import BackboneWrapper
from hyperloader.model.calling import NamedTasks
from hyperloader.model.counting import parameter_counts
from hyperloader.model.sizes import check_fits, check_stored, new_parts
from hyperloader.model.task_model import TaskModel
from hyperloader.model.task_texts import TaskTexts, task_texts
from hyperloader.model.text_encoder import embedded, minilm, tokenizer_of
from hyperloader.model.weight_provider import WeightProvider
from hyperloader.nn.bank import WeightBank
from hyperloader.nn.forwards import Forwards
from hyperloader.nn.layout import LayerSites, Layout
from hyperloader.nn.quantized import leave_out_of_ddp
from hyperloader.nn.sharded import is_sharded
from hyperloader.nn.site_weights import ActiveWeights
from hyperloader.nn.task_embedding import TaskEmbedding

_WHAT = "a folder that save_pretrained wrote"
Merged = tuple[TaskModel, dict[str, nn.Module]]  # merged in place, and the layers that its weights replace
Model = TypeVar("Model", bound="AttachedModel")


class AttachedModel(BackboneWrapper):
    """The parts of a ``HyperLoaderModel``, without its forward and its tasks."""

    generators: Any  # nn.ModuleDict: layer stack -> its Hypernetwork or Table
    task_embedding: TaskEmbedding

    def __init__(
        self, backbone: nn.Module, config: HyperLoaderConfig, tokenizer: Any = None, embed_texts: bool = True
    ) -> None:
        nn.Module.__init__(self)
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"backbone must be a model of transformers, got {backbone!r:.80}")
        if not isinstance(config, HyperLoaderConfig):
            raise TypeError(f"config must be a HyperLoaderConfig, got {config!r:.80}")
        given, backbone = backbone, without_compile(backbone)
        check_own_head(backbone, config.labels is not None)
        self.hyperloader_config = config
        self.tokenizer = tokenizer
        self.bank = WeightBank()
        self._merged: Merged | None = None
        self._active = ActiveWeights()
        self._forwards = Forwards()
        self._named_tasks = NamedTasks()
        self._trained_before: dict[str, bool] | None = None  # requires_grad before one task alone was trained
        self._attachment = Attachment(backbone, config, self._active)
        try:
            check_fits(backbone, config, self._attachment.layouts)
            self.heads = None
            for name, part in new_parts(backbone, config, self._attachment.layouts).items():
                setattr(self, name, part)
            device = next(backbone.parameters()).device
            if any(parameter.device != device for parameter in self.parameters()):
                self.to(device)
            if embed_texts and config.descriptions is not None and not next(backbone.parameters()).is_meta:
                self._fill_in(task_texts(config, config.tasks, lambda texts: self._embed(backbone, texts)))
        except BaseException:  # also when memory runs out, or at Ctrl-C: the backbone is given back
            self._attachment.undo(backbone)
            raise
        self.backbone = given
        leave_out_of_ddp(self, "backbone", backbone)
        self.train(backbone.training)
        self.register_state_dict_pre_hook(AttachedModel._check_not_merged)
        self.register_load_state_dict_pre_hook(AttachedModel._check_not_merged)

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Layer stack -> what is generated for it."""
        return self._attachment.layouts

    @property
    def site_paths(self) -> Mapping[str, LayerSites]:
        """Path of every wrapped layer in the backbone -> its sites, (stack, layer, site) each."""
        return self._attachment.site_paths

    @property
    def generated_dtype(self) -> torch.dtype:
        """The dtype that weights are generated in."""
        return self._attachment.dtype(self.backbone)

    @property
    def norm_names(self) -> list[str]:
        """The backbone's own norms that are trained."""
        return self._attachment.norm_names

    @property
    def weight_provider(self) -> WeightProvider:
        """What provides the weights, as the model is now."""
        config = self.hyperloader_config
        embedding = None if config.generator == "table" else self.task_embedding
        return WeightProvider(
            self.generators, embedding, len(config.tasks), self.bank, self.generated_dtype, self.training
        )

    def text_embeddings(self, texts: Sequence[str]) -> Tensor:
        """The frozen embeddings (texts, width) of ``texts`` by what ``config.text_encoder`` names: the mean over a
        text's tokens of its last hidden states; the backbone is as it was before it was attached to.

        Raises:
            ValueError: no tokenizer, a text without tokens or with too many. FileNotFoundError: no ``minilm``.
        """
        self._check_attached()
        with self._forwards.changing("text_embeddings()"):
            return self._embed(self.backbone, texts)

    def _embed(self, backbone: nn.Module, texts: Sequence[str]) -> Tensor:
        if self.hyperloader_config.text_encoder == MINILM:
            return embedded(*minilm(), texts)
        if self.tokenizer is None:
            self.tokenizer = tokenizer_of(backbone)
        with self._attachment.as_before(backbone):
            return embedded(backbone, self.tokenizer, texts)

    @torch.no_grad()
    def _fill_in(self, texts: Sequence[TaskTexts]) -> None:
        """Give a new model the embeddings of its tasks' words."""
        embedding, heads = cast(Any, self.task_embedding), cast(Any, self.heads)
        embedding.texts.copy_(torch.cat([one.task for one in texts]))
        if heads is not None:
            heads.texts.copy_(torch.cat([one.labels for one in texts if one.labels is not None]))

    def detach(self) -> nn.Module:
        """Unwrap the backbone and return it, bit for bit as it was before; this model is then empty."""
        with self._forwards.changing("detach()"):
            self._check_attached()
            self._check_not_sharded("detach()")
            given = self.backbone if self._compiled is None else self._compiled
            self._attachment.undo(self.backbone)
            self.bank.clear()
            for name in list(self._modules):
                delattr(self, name)
        return given

    def train(self: Model, mode: bool = True) -> Model:
        """Set training or evaluation mode. In training the weight bank is empty."""
        if mode:
            self.bank.clear()
        return nn.Module.train(self, mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:  # which .to() and .half() call
        self.bank.clear()  # else it would keep the old memory alive
        self._named_tasks.clear()
        return super()._apply(trained.kept_in_float32(trained.own_tensors(self, self.norm_names), fn), recurse)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping | None = None, **backbone_arguments: Any
    ) -> None:
        """Recompute the backbone's layers in the backward instead of keeping what is inside them.

        Takes what the backbone's own method takes; raises ``ValueError`` for reentrant checkpointing.
        """
        if self._attachment.recomputes_norms(self.backbone):
            raise ValueError("gradient checkpointing and recompute_norms() must not be enabled both, got both")
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

    def recompute_norms(self, enable: bool = True) -> None:
        """Make the outputs of trained norms that LoRA reads again in the backward instead of keeping them.

        For training without ``torch.compile``; gradients are the same to the bit. Raises ``ValueError`` with norms that
        are not trained or with gradient checkpointing, which keeps neither.
        """
        self._check_attached()
        if enable and not self.norm_names:
            raise ValueError("train_norms must be true for recompute_norms(), got norms that are not trained")
        if enable and is_checkpointing(self.backbone):
            raise ValueError("recompute_norms() and gradient checkpointing must not be enabled both, got both")
        self._attachment.recompute_norms(self.backbone, enable)

    def trainable_state(self, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What is trained, embeddings of texts and a bias of the cross-attention, by name: all that a checkpoint has to
        hold.

        The values are those of ``state_dict``, None for the model's own.
        """
        return trained.trained_state(self, self.norm_names, state_dict)

    saved_state = trainable_state

    def load_trainable_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy ``tensors``, with the names and shapes of ``trainable_state()``, into this model; float64 stays so.

        Raises ``ValueError`` for other names or shapes; the model is then as it was.
        """
        self._check_attached()
        check_shapes("this state", tensors, self.trainable_state())
        trained.load_trained_state(self, self.norm_names, tensors)

    def _about(self) -> str:
        count, (own, total) = len(self.hyperloader_config.tasks), parameter_counts(self)
        return (
            f"{own:,} trained parameters, of {total:,} in all, for {count:,} "
            f"task{'s' if count > 1 else ''} of one frozen {{backbone}}, which is not in these files: weights "
            "generated, or kept for each task, as in"
        )

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return parameter_counts(self)[0]

    def print_trainable_parameters(self) -> None:
        """Print the number of trained parameters, of all parameters, and the share."""
        self._check_has_backbone()
        count, total = parameter_counts(self)
        print(f"trainable parameters: {count:,} | all parameters: {total:,} | trainable: {count / total:.2%}")

    def save_pretrained(
        self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None, is_main_process: bool = True
    ) -> None:
        """Write ``model.safetensors`` (what is trained) and ``hyperloader.json`` (config, backbone) to ``folder``, and
        a model card, ``README.md``, unless there is one that was edited.

        They are written under temporary names and renamed: a failure leaves what was there before. As transformers'
        Trainer wants it, ``state_dict`` holds the values instead of this model, and of several processes the main one
        alone writes; where FSDP has sharded the model all have to call it, for each has a part of the values.
        """
        self._check_attached()
        if is_main_process or is_sharded(self):
            tensors = self.trainable_state(state_dict)
            config, card = self.hyperloader_config, self._card()
            stored_model.save(folder, tensors, config, self.backbone, self.norm_names, card, is_main_process)

    @classmethod
    def from_pretrained(
        cls: type[Model], folder: str | Path, backbone: nn.Module | None = None, *, revision: str | None = None
    ) -> Model:
        """Load what ``save_pretrained`` wrote.

        Args:
            folder: a folder or, on the Hugging Face Hub, ``owner/name``.
            revision: a branch, a tag or a commit there.
            backbone: the backbone that it was trained with; None loads the one named in the checkpoint.

        Returns:
            The model, in evaluation mode.

        Raises:
            FileNotFoundError, ValueError: a missing, truncated or foreign file, or another backbone.
        """
        stored = stored_model.load(local_folder(folder, ("*",), revision, _WHAT))
        backbone = stored.load_backbone() if backbone is None else backbone
        plain = without_compile(backbone)
        with stored_bias(plain, stored.tensors) as added:
            stored.check_backbone(plain)
            check_stored(stored, plain)
            model = cls(backbone, stored.config, embed_texts=False)
            try:
                stored.check_tensors(model.trainable_state())
            except ValueError:
                model.detach()
                raise
        model._attachment.added_bias = added
        trained.load_trained_state(model, model.norm_names, stored.tensors)  # which have been checked
        return model.eval()

    def _check_attached(self) -> None:
        self._check_has_backbone()
        self._check_not_merged()

    def _check_not_sharded(self, what: str) -> None:
        if is_sharded(self):
            raise RuntimeError(f"{what} must be called before FSDP shards the model, got one that is sharded")

    def _check_has_backbone(self) -> None:
        if "backbone" not in self._modules:
            raise RuntimeError("this model has no backbone since detach(); attach a new HyperLoaderModel to it")

    def _check_not_merged(self, *_: Any) -> None:
        """Raise ``RuntimeError`` if a task is merged into the backbone, which is then not all there."""
        if self._merged is not None:
            raise RuntimeError(f"{self._merged[0].task!r} is merged into this model's backbone: call unmerge() first")
