"""Backbones with a head of their own: a language model's is used as it is, any other would never be trained."""

from torch import nn


def check_own_head(backbone: nn.Module, with_labels: bool) -> None:
    """Raise ``ValueError``, saying what to pass instead, for a backbone whose own head fits no task.

    Args:
        backbone: of a known family.
        with_labels: whether it gets token-classification heads, which read hidden states.
    """
    kind = type(backbone).__name__
    base = getattr(backbone, "base_model", backbone)
    if base is backbone and "For" not in kind:
        return
    embeddings = getattr(backbone, "get_output_embeddings", None)
    is_language_model = embeddings is not None and embeddings() is not None
    has_decoder = getattr(base, "decoder", None) is not None
    if is_language_model and (not with_labels or has_decoder):  # the latter: see task_heads
        return
    if has_decoder:
        instead = _of_both_stacks(kind.partition("For")[0])
    else:
        instead = f"its base model, backbone.{backbone.base_model_prefix} (a {type(base).__name__}), with config.labels"
        instead += " for one token-classification head per task"
    why = "return hidden states where config.labels are given" if with_labels else "have no head that is never trained"
    raise ValueError(f"backbone must {why}, got {kind}, which has a head of its own: pass {instead}")


def _of_both_stacks(family: str) -> str:
    """What a family with encoder and decoder has for our kinds of tasks."""
    import transformers

    encoder, text = f"{family}EncoderModel", f"{family}ForConditionalGeneration for text-to-text"
    return f"{encoder} with config.labels for tagging, or {text}" if hasattr(transformers, encoder) else text
