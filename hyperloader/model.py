"""A frozen backbone, and hypernetworks that generate its adapters, LoRA updates and their norms for every task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperloader import checkpoint
from hyperloader.attach import Attachment
from hyperloader.backbones import checkpointing
from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.heads import task_heads
from hyperloader.nn.hypernetwork import hypernetworks
from hyperloader.nn.layout import Layout
from hyperloader.nn.table import Table
from hyperloader.nn.task_embedding import TaskEmbedding
from hyperloader.nn.weights import ActiveWeights, Weights
from hyperloader.tasks import add_task, freeze_except_task_embedding, unfreeze

IGNORED = -100  # the label that counts for nothing


class HyperLoaderModel(nn.Module):
    """Fine-tunes one frozen ``backbone`` on many tasks (HyperLoader, arXiv 2407.01411).

    Attaching wraps some of the backbone's ``nn.Linear`` layers in place and freezes it; nothing is moved or copied.
    ``detach()`` gives it back as it was. Trained are the hypernetworks, the task embeddings, the backbone's own layer
    norms (``config.train_norms``) and, with ``config.labels``, one token-classification head per task.

    Args:
        backbone: a transformers model of a family in ``hyperloader.backbones.FAMILIES``.
        config: sizes and switches.

    Raises:
        ValueError: an unsupported backbone, one that is attached already, or sizes that do not fit it.
    """

    add_task = add_task
    freeze_except_task_embedding = freeze_except_task_embedding
    unfreeze = unfreeze
    accepts_loss_kwargs = False  # tells transformers' Trainer that the loss is a mean, to be divided when accumulating

    def __init__(self, backbone: nn.Module, config: HyperLoaderConfig):
        super().__init__()
        self.hyperloader_config = config
        self._active = ActiveWeights()
        self._unfrozen: dict[str, bool] | None = None  # what was trained before one task alone was
        self._attachment = Attachment(backbone, config, self._active)
        try:
            self._build(self._attachment.layouts, backbone)
            self.to(next(backbone.parameters()).device)
        except BaseException:  # whatever it is, memory or Ctrl-C: the backbone is given back
            self._attachment.undo(backbone)
            raise
        self.backbone = backbone
        self.train(backbone.training)

    def _build(self, layouts: Mapping[str, Layout], backbone: nn.Module) -> None:
        config = self.hyperloader_config
        if config.generator == "table":
            self.generators = nn.ModuleDict({name: Table(config, layout) for name, layout in layouts.items()})
        else:
            self.task_embedding = TaskEmbedding(len(config.tasks), config.task_embedding_dim)
            self.generators = nn.ModuleDict(hypernetworks(config, layouts))
        self.heads = task_heads(backbone, config.labels) if config.labels is not None else None

    @property
    def config(self) -> Any:
        """The backbone's transformers config, which Trainer and its kin look at; ours is ``hyperloader_config``."""
        return self.backbone.config

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
            of a sentence's own task are -inf.

        Raises:
            ValueError, TypeError, IndexError: an unknown task, a task id out of range, neither or both of them.
        """
        which = self._which(task, task_ids, _rows(input_ids, backbone_arguments))
        with self._active.use(self._generate_weights(which)):
            if self.heads is None:
                if labels is not None:
                    backbone_arguments["labels"] = labels
                return self.backbone(input_ids=input_ids, attention_mask=attention_mask, **backbone_arguments)
            outputs = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **backbone_arguments)
        return self._classify(outputs, labels, which, widest=task is None)

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
        self._check_attached()
        if not callable(getattr(self.backbone, "generate", None)) or not self.backbone.can_generate():
            raise TypeError(f"backbone must be able to generate, got {type(self.backbone).__name__}")
        which = self._which(task, task_ids, _rows(input_ids, generate_arguments))
        with self._active.use(self._generate_weights(which)):
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

    def detach(self) -> nn.Module:
        """Take everything off the backbone again and return it, bit for bit as it was; this model is then empty."""
        self._check_attached()
        backbone = self.backbone
        self._attachment.undo(backbone)
        for name in list(self._modules):
            delattr(self, name)
        return backbone

    def trainable_state(self) -> dict[str, Tensor]:
        """What is trained, by name: all that a checkpoint has to hold."""
        trained, state = set(self._attachment.norm_names), self.state_dict()
        return {
            name: state[name]
            for name, _ in self.named_parameters()  # which names what two stacks share once
            if name in state and (not name.startswith("backbone.") or name.removeprefix("backbone.") in trained)
        }

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def print_trainable_parameters(self) -> None:
        """Print the number of trained parameters, of all parameters, and the share."""
        trained, total = self.trainable_parameters(), sum(parameter.numel() for parameter in self.parameters())
        print(f"trainable parameters: {trained:,} | all parameters: {total:,} | trainable: {trained / total:.2%}")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` (what is trained) and ``hyperloader.json`` (config, backbone) to ``folder``.

        Both are written aside and then renamed: a failure leaves what was there.
        """
        self._check_attached()
        checkpoint.save(folder, self.trainable_state(), self.hyperloader_config, self.backbone, self._attachment)

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
        stored = checkpoint.load(folder)
        backbone = stored.load_backbone() if backbone is None else backbone
        stored.check_backbone(backbone)
        model = cls(backbone, stored.config)
        try:
            stored.check_tensors(model.trainable_state())
        except ValueError:
            model.detach()
            raise
        model.load_state_dict(stored.tensors, strict=False)
        return model.eval()

    def _check_attached(self) -> None:
        if "backbone" not in self._modules:
            raise RuntimeError("this model has no backbone since detach(); attach a new HyperLoaderModel to it")

    def _which(self, task: str | None, task_ids: Tensor | None, rows: int | None) -> int | Tensor:
        """The task of the whole batch of ``rows`` sentences as an index, or that of each sentence."""
        self._check_attached()
        if (task is None) == (task_ids is None):
            raise ValueError(f"task or task_ids must be given, got {'neither' if task is None else 'both'}")
        if task is not None:
            return self.hyperloader_config.task_id(task)
        if not isinstance(task_ids, Tensor) or task_ids.dtype != torch.int64 or task_ids.ndim != 1:
            what = f"{task_ids.dtype} {tuple(task_ids.shape)}" if isinstance(task_ids, Tensor) else repr(task_ids)
            raise TypeError(f"task_ids must be an int64 tensor of shape (batch,), got {what}")
        if rows is not None and task_ids.shape[0] != rows:
            raise ValueError(f"task_ids must have one entry per sentence, got {task_ids.shape[0]} for {rows} sentences")
        if _may_look_at(task_ids) and task_ids.numel():
            low, high = (int(bound) for bound in task_ids.aminmax())
            count = len(self.hyperloader_config.tasks)
            if low < 0 or high >= count:
                raise IndexError(f"task_ids must be from 0 to {count - 1}, got {low if low < 0 else high}")
            if low == high:
                return low
        return task_ids

    def _generate_weights(self, which: int | Tensor) -> Weights:
        """The weights of every site: of the one task, or of all tasks in the batch and who uses which."""
        device = next(self.generators.parameters()).device
        if isinstance(which, int):
            tasks, group = torch.tensor([which], device=device), None
        elif _may_look_at(which):
            tasks, group = (tensor.to(device) for tensor in torch.unique(which, return_inverse=True))
        else:
            tasks, group = torch.arange(len(self.hyperloader_config.tasks), device=device), which
        with torch.autocast(device.type, enabled=False):
            return Weights(self._weights_of(tasks, grouped=group is not None), group)

    def _weights_of(self, tasks: Tensor, grouped: bool) -> dict:
        dtype = self._attachment.dtype(self.backbone)
        inputs = tasks if self.hyperloader_config.generator == "table" else self.task_embedding(tasks)
        sites = {}
        for name, generator in self.generators.items():
            generated = generator(inputs, grouped=grouped, dtype=dtype)
            sites |= {(name, layer, site): weights for (layer, site), weights in generated.items()}
        return sites

    def _classify(self, outputs: Any, labels: Tensor | None, which: int | Tensor, widest: bool) -> Any:
        from transformers.modeling_outputs import TokenClassifierOutput

        logits = self.heads(outputs.last_hidden_state, which, widest)
        if labels is not None and labels.shape != logits.shape[:2]:
            raise ValueError(f"labels must have shape {tuple(logits.shape[:2])}, got {tuple(labels.shape)}")
        loss = None
        if labels is not None:
            self._check_labels(labels, which)
            wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
            total = functional.cross_entropy(
                wide.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            loss = total / labels.ne(IGNORED).sum().clamp_min(1)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.get("hidden_states"))

    def _check_labels(self, labels: Tensor, which: int | Tensor) -> None:
        if not _may_look_at(labels):
            return
        sizes = self.heads.sizes[which]
        wrong = (labels >= sizes.view(-1, 1)) | ((labels < 0) & (labels != IGNORED))
        if wrong.any():
            raise ValueError(
                f"labels must be below the number of the task's labels or {IGNORED}, got {int(labels[wrong][0])}"
            )


def _rows(input_ids: Tensor | None, arguments: Mapping) -> int | None:
    """Sentences of the batch, as far as the arguments say."""
    if input_ids is not None:
        return input_ids.shape[0]
    for name in ("inputs", "inputs_embeds", "encoder_outputs"):
        if (given := arguments.get(name)) is not None:
            return (given if isinstance(given, Tensor) else given[0]).shape[0]
    return None


def _may_look_at(tensor: Tensor) -> bool:
    """Whether the values of ``tensor`` are at hand: on a device a look would wait, in a trace there are none."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
