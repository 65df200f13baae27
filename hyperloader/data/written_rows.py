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
    ``most`` tokens, and never more than fit into its context: each row as if it were alone."""
    options = {"eos_token_id": list(ends), "pad_token_id": pad_id, **GREEDY}
    lengths = inputs["attention_mask"].sum(1).tolist() if text_model.causal else [1] * len(inputs["input_ids"])
    rooms = [most if text_model.context is None else min(most, text_model.context - length) for length in lengths]
    written: list[list[int]] = [[] for _ in lengths]
    some, going = dict(inputs), list(range(len(lengths)))
    while going:  # as far as all rows have room, then those on that have more
        step = min(rooms[row] - len(written[row]) for row in going)
        width = some["input_ids"].shape[1] if text_model.causal else 1
        ids = model.generate(**some, max_new_tokens=step, **options)
        on = []
        for place, (row, new) in enumerate(zip(going, ids[:, width:].tolist(), strict=True)):
            kept = new[: next((at for at, one in enumerate(new) if one in ends), len(new))]
            written[row] += kept
            if len(kept) == step and len(written[row]) < rooms[row]:
                on.append(place)
        going = [going[place] for place in on]
        if going:
            longest = max(lengths[row] + len(written[row]) for row in going)
            mask = torch.nn.functional.pad(some["attention_mask"], (0, step), value=1)
            some = rows_of({**some, "input_ids": ids, "attention_mask": mask}, on)
            some |= {name: some[name][:, -longest:] for name in ("input_ids", "attention_mask")}
    return written


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
