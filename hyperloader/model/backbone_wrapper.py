"""What the models around a backbone have in common."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from hyperloader.backbones.compiled import without_compile
from hyperloader.backbones.index_buffers import outside_of_state, restore
from hyperloader.checkpoints import stored_model
from hyperloader.checkpoints.card import card_of_model
from hyperloader.checkpoints.card_file import CARD
from hyperloader.checkpoints.hub import check_repo_id, push
from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.classify import classify
from hyperloader.nn.forwards import Forwards
from hyperloader.nn.heads import TaskHeads

_FILES = ("model.safetensors", "hyperloader.json", "task.json", "config.json", "generation_config.json")  # of a model


class BackboneWrapper(nn.Module):
    """A model with a ``backbone`` and, for token classification, task ``heads``.

    Of a backbone that ``torch.compile`` has wrapped, ``backbone`` is the plain module, so that names in states and
    paths are the same with and without it; ``run_backbone`` calls the compiled one.
    """

    accepts_loss_kwargs = False  # tells transformers' Trainer that the loss is a mean, to be divided when accumulating
    backbone: Any  # a model of transformers
    hyperloader_config: HyperLoaderConfig
    heads: TaskHeads | None
    _compiled: nn.Module | None = None
    _forwards: Forwards

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "backbone":
            plain = without_compile(value)
            self.__dict__["_compiled"] = None if plain is value else value  # no submodule: it has the same parameters
            value = plain
        super().__setattr__(name, value)

    def run_backbone(self, labels: Tensor | None, **arguments: Any) -> Any:
        """The backbone's ``forward``, compiled if it was given so; ``labels`` are for it where there are no heads."""
        if self.heads is None and labels is not None:
            arguments["labels"] = labels
        return (self.backbone if self._compiled is None else self._compiled)(**arguments)

    def run_heads(self, outputs: Any, labels: Tensor | None, tasks: int | Tensor, **options: Any) -> Any:
        """The backbone's ``outputs`` or, where there are heads, theirs: see ``classify``, which takes ``options``."""
        if self.heads is not None:
            return classify(self.heads, outputs, labels, tasks, **options)
        if options["targets"] is not None:
            raise ValueError("targets must be None for a model without heads")
        return outputs

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        backbone = self._modules.get("backbone")  # None while a model is built, and after detach()
        lost = [] if backbone is None else [name for name, buffer in backbone.named_buffers() if buffer.is_meta]
        super()._apply(fn, recurse)
        if backbone is not None and lost:
            restore(backbone, set(lost) & set(outside_of_state(backbone)))
        return self

    def to_empty(self, *, device: torch.device | str | int | None, recurse: bool = True) -> "BackboneWrapper":
        """As ``nn.Module.to_empty``; the backbone's index buffers, which no state holds, are right afterwards."""
        super().to_empty(device=device, recurse=recurse)
        restore(self.backbone, outside_of_state(self.backbone))
        return self

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, license: str | None = None
    ) -> str:
        """Put what ``save_pretrained`` writes, and a model card, into the repository ``repo_id`` of the Hugging Face
        Hub; returns the address of the commit. The path of a backbone in a folder is left out: who loads the model
        gives the backbone.

        Args:
            repo_id: ``owner/name``; it is made if need be.
            private: whether a new repository is.
            token: that may write there; None for the one of `hf auth login`.
            license: of what is published, as the Hub names licences.

        Raises:
            ValueError: what ``save_pretrained`` raises, or another ``repo_id``. ConnectionError: the Hub did not take
                it.
        """
        check_repo_id(repo_id)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            files: dict[str, Path | bytes] = {path.name: path for path in Path(folder).iterdir()}
            files[CARD] = self._card(repo_id, license)
            if stored_model.DESCRIPTION in files:
                files[stored_model.DESCRIPTION] = stored_model.published(Path(folder) / stored_model.DESCRIPTION)
            return push(files, repo_id, _FILES, private, token)

    _whole = False  # is saved with its backbone

    def _card(self, repo_id: str | None = None, license: str | None = None) -> bytes:
        config, about = self.hyperloader_config, self._about()
        return card_of_model(config, self.backbone, about, repo_id, license, self._whole)

    def _about(self) -> str:
        """What the model is, for its card: a sentence with {backbone} that the method's name ends."""
        raise NotImplementedError

    def save_pretrained(
        self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None, is_main_process: bool = True
    ) -> None:
        """Write the model to ``folder``."""
        raise NotImplementedError

    @property
    def config(self) -> Any:
        """The backbone's transformers config, which Trainer reads; ours is ``hyperloader_config``."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """The backbone's dtype."""
        return self.backbone.dtype
