"""Running a model that writes text: what it writes, and the logits of what may follow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperloader.data.examples import Example, pad
from hyperloader.data.wording import TextModel

# Also where a checkpoint's own generation config asks for summaries: in tags, much is repeated.
GREEDY = {"num_beams": 1, "do_sample": False, "no_repeat_ngram_size": 0, "repetition_penalty": 1.0, "min_length": 0}
Inputs = Mapping[str, Tensor]


def rows_of(inputs: Inputs, rows: Sequence[int]) -> dict[str, Tensor]:
    """Some sentences of a batch."""
    return {name: tensor[list(rows)] for name, tensor in inputs.items()}


def padded_left(inputs: Inputs, examples: Sequence[Example], pad_id: int) -> dict[str, Tensor]:
    """The batch of ``examples`` without more padding than they need, which stands before them."""
    reverse = pad([example.input_ids[::-1] for example in examples], pad_id).flip(1)
    lengths = torch.tensor([len(example.input_ids) for example in examples])
    mask = (torch.arange(reverse.shape[1]).flip(0) < lengths[:, None]).long()
    device = inputs["input_ids"].device
    return {**inputs, "input_ids": reverse.to(device), "attention_mask": mask.to(device)}


def write(model: Any, inputs: Inputs, text_model: TextModel, pad_id: int, ends: Sequence[int], most: int) -> list:
    """What the model writes greedily to each row (a decoder's padded on the left), up to the first of ``ends``, at most
    ``most`` tokens, and never more than fit into its context."""
    width = inputs["input_ids"].shape[1] if text_model.causal else 1
    if text_model.context is not None:
        most = min(most, text_model.context - width)
    options = {"max_new_tokens": most, "eos_token_id": list(ends), "pad_token_id": pad_id, **GREEDY}
    rows = model.generate(**inputs, **options)[:, width:].tolist()
    return [row[: next((place for place, one in enumerate(row) if one in ends), len(row))] for row in rows]


def following(
    model: Any, inputs: Inputs, text_model: TextModel, begun: Sequence[Sequence[int]]
) -> tuple[Tensor, Callable[[list[int], list[int]], Tensor]]:
    """The logits (rows, vocabulary) of what follows each row, and a function to go on with: see
    ``hyperloader.data.label_tree.label_probabilities``.

    Args:
        inputs: of a decoder padded on the left, ``begun`` included.
        begun: of an encoder-decoder, what its decoder has written.
    """
    if text_model.causal:
        return _after_prompt(model, dict(inputs))
    assert text_model.decoder_start is not None
    return _after_source(model, dict(inputs), [[text_model.decoder_start, *row] for row in begun])


def _after_prompt(model: Any, state: dict[str, Any]) -> tuple[Tensor, Callable[[list[int], list[int]], Tensor]]:
    state["position_ids"] = (state["attention_mask"].cumsum(1) - 1).clamp(min=0)
    outputs = model(**state, use_cache=True)

    def go_on(parents: list[int], tokens: list[int]) -> Tensor:
        cache = state.get("past_key_values", outputs.past_key_values)
        device = state["attention_mask"].device
        index = torch.tensor(parents, device=device)
        cache.reorder_cache(index)
        mask = state["attention_mask"][index]
        state["attention_mask"] = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        state["position_ids"] = state["position_ids"][index][:, -1:] + 1
        state["input_ids"] = torch.tensor(tokens, device=device)[:, None]
        state["past_key_values"] = cache
        if "task_ids" in state:
            state["task_ids"] = state["task_ids"][index]
        return model(**state, use_cache=True).logits[:, -1]

    return outputs.logits[:, -1], go_on


def _after_source(
    model: Any, state: dict[str, Any], begun: list[list[int]]
) -> tuple[Tensor, Callable[[list[int], list[int]], Tensor]]:
    from transformers.modeling_outputs import BaseModelOutput

    device, written = state["attention_mask"].device, begun

    def run() -> Any:
        lengths = torch.tensor([len(row) for row in written], device=device)
        outputs = model(**state, decoder_input_ids=pad(written, 0).to(device), use_cache=False)
        return outputs, outputs.logits[torch.arange(len(written), device=device), lengths - 1]

    outputs, logits = run()
    state["encoder_outputs"] = BaseModelOutput(outputs.encoder_last_hidden_state)
    del state["input_ids"]

    def go_on(parents: list[int], tokens: list[int]) -> Tensor:
        nonlocal written
        index = torch.tensor(parents, device=device)
        written = [[*written[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        hidden = state.pop("encoder_outputs").last_hidden_state[index]
        state.update({name: tensor[index] for name, tensor in state.items()})
        state["encoder_outputs"] = BaseModelOutput(hidden)
        return run()[1]

    return logits, go_on
