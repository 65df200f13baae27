"""Our models as subclasses of transformers' ``PreTrainedModel``, so that Trainer saves and feeds them as its own."""

import functools
import inspect
import sys
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from hyperloader.model.label_smoothing import patch_label_smoother


@functools.cache
def as_pretrained(kind: Any, backbone: Any) -> type:
    """``kind``, a class of models around a ``backbone``, as a subclass of ``transformers.PreTrainedModel``.

    Trainer saves such a model with its own ``save_pretrained``, and any other one by its whole state, frozen backbone
    included, which fails for tensors that are tied. What Trainer reads off the signature of ``forward`` are the columns
    that a data set may keep: those of the backbone's forward among them.
    """
    from transformers import GenerationMixin, PreTrainedModel

    def forward(self: Any, *arguments: Any, **options: Any) -> Any:
        return kind.forward(self, *arguments, **options)

    named: Any = functools.update_wrapper(forward, kind.forward)
    named.__signature__ = _joined(kind.forward, backbone.forward)

    def __reduce_ex__(self: Any, protocol: int) -> tuple:  # a class made here cannot be found by its name
        return _empty, (kind, backbone), object.__reduce_ex__(self, 2)[2]  # the state

    own = {"forward": named, "__reduce_ex__": __reduce_ex__, "__module__": kind.__module__, "__doc__": kind.__doc__}
    own |= {"get_input_embeddings": _input_embeddings, "resize_token_embeddings": _refuse_to_resize}
    own |= {"tie_weights": _tie_weights, "_keys_to_ignore_on_save": property(_not_saved)}
    if hasattr(backbone, "generation_config") or issubclass(backbone, GenerationMixin):
        own["generation_config"] = property(_generation_config, _set_generation_config)
    if hasattr(backbone, "prepare_decoder_input_ids_from_labels"):
        own["prepare_decoder_input_ids_from_labels"] = _decoder_input_ids
    if backbone.__name__ in _causal_classes():
        own |= {"_get_name": _name_for_trainer, "__repr__": _repr}
    for name in ("cuda", "eval", "float", "half", "to", "train"):  # PreTrainedModel's are for models that it has loaded
        if inspect.getattr_static(kind, name) is inspect.getattr_static(nn.Module, name):
            own[name] = getattr(nn.Module, name)
    patch_label_smoother()
    return type(kind.__name__, (kind, PreTrainedModel), own)


def _causal_classes() -> Collection[str]:
    """Names of the classes whose labels Trainer shifts by a token."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def _name_for_trainer(self: Any) -> str:
    """The backbone's, by which Trainer's label smoothing knows a causal model."""
    return type(self.backbone if "backbone" in self._modules and self.heads is None else self).__name__


def _repr(self: Any) -> str:
    return type(self).__name__ + nn.Module.__repr__(self).removeprefix(self._get_name())


def new(kind: Any, backbone: object) -> Any:
    """An empty instance of ``kind``, or of ``as_pretrained(kind, ...)`` for a ``backbone`` of transformers."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(backbone, transformers.PreTrainedModel):
        return object.__new__(kind)
    return object.__new__(kind) if issubclass(kind, transformers.PreTrainedModel) else _empty(kind, type(backbone))


def _empty(kind: Any, backbone: Any) -> Any:
    return object.__new__(as_pretrained(kind, backbone))


def _not_saved(self: Any) -> list[str]:
    """Names that Trainer does not expect in a checkpoint: the frozen backbone, and second names of what is shared."""
    saved = self.saved_state()
    return [name for name in self.state_dict() if name not in saved]


def _input_embeddings(self: Any) -> nn.Module:
    """The backbone's, which Trainer's NEFTune adds noise to."""
    return self.backbone.get_input_embeddings()


def _refuse_to_resize(self: Any, *_: Any, **__: Any) -> None:
    raise NotImplementedError(
        "the vocabulary must be resized before the backbone is attached, and saved with it: call "
        "backbone.resize_token_embeddings(...) and backbone.save_pretrained(folder), then attach what is loaded from it"
    )


def _tie_weights(self: Any, *_: Any, **__: Any) -> None:
    """Nothing to do: the backbone is tied, and stays so."""


def _generation_config(self: Any) -> Any:
    """The backbone's."""
    return self.backbone.generation_config


def _set_generation_config(self: Any, generation_config: Any) -> None:
    self.backbone.generation_config = generation_config


def _decoder_input_ids(self: Any, labels: Any) -> Any:
    """As the backbone's: what its decoder reads where ``labels`` are wanted."""
    return self.backbone.prepare_decoder_input_ids_from_labels(labels)


def _joined(forward: Callable, other: Callable) -> inspect.Signature:
    """The signature of ``forward`` with those parameters of ``other`` that it takes by its ``**``."""
    own = inspect.signature(forward)
    named = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    rest = [one for one in own.parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]
    others = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in inspect.signature(other).parameters.items()
        if name not in own.parameters and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    return own.replace(parameters=[*named, *others, *rest])
