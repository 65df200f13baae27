"""The token ids that a model which writes text reads and writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperloader.data.sentence import kept_if_short

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = " ->"  # between what a decoder reads and what it writes, but for completions and chats


@dataclass(frozen=True)
class TextModel:
    """A decoder (``causal``), or an encoder with a decoder.

    context: tokens that it takes at most, None for any number. decoder_start: of an encoder-decoder, what its decoder
    begins with.
    """

    causal: bool
    context: int | None = None
    decoder_start: int | None = None

    @classmethod
    def of(cls, config: Any) -> "TextModel":
        """That of a backbone with this config of transformers."""
        start = getattr(config, "decoder_start_token_id", None)
        context = getattr(config, "max_position_embeddings", None)
        return cls(not config.is_encoder_decoder, context, start if config.is_encoder_decoder else None)


class Wording:
    """Sources and targets of ``text_model``, of at most ``max_length`` tokens each, as its ``tokenizer`` spells them.

    Of a decoder the source ends with ``SEPARATOR``, and the target is what follows a space, with the end token. Both
    share its context: a source leaves room for a target of ``max_length`` tokens, at most half of the context.

    Raises:
        ValueError: the tokenizer has no end token.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", text_model: TextModel, max_length: int) -> None:
        end = tokenizer.eos_token_id
        if end is None:
            raise ValueError(f"tokenizer must have an end token, got {type(tokenizer).__name__} without")
        self.tokenizer, self.text_model, self.max_length, self.end = tokenizer, text_model, max_length, end
        context = text_model.context
        self.room = max_length if context is None else min(max_length, context - 1)
        self.target_room = self.room if context is None or not text_model.causal else min(max_length, context // 2)
        self.length = kept_if_short(lambda text: len(self.ids(text)), 1 << 16)  # of words, in tokens
        self.pad_id = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._before, self._after = _affixes(tokenizer)
        self._before_target, self._after_target = list[int](), [end]
        self._separator = self.ids(SEPARATOR) if text_model.causal else []
        if text_model.causal:
            self._after = []
        else:
            self._before_target, self._after_target = _affixes(tokenizer, target=True)

    def ids(self, text: str) -> list[int]:
        """The ids of ``text`` alone."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    @property
    def free(self) -> int:
        """Tokens of texts that fit into a source, and into a target."""
        source = self._source_room(self.target_room) - len(self._before) - len(self._separator) - len(self._after)
        return max(1, min(source, self.target_room - len(self._before_target) - len(self._after_target)))

    def source(
        self, texts: Sequence[str], may_be_cut: Sequence[bool], target: int | None = None
    ) -> tuple[list[int], bool]:
        """The texts one after the other, those that may be cut as far as there is room before a target of so many
        tokens (of None, ``target_room``); and whether one was."""
        pieces = [
            self.ids(f" {text}" if place and self.text_model.causal else text) for place, text in enumerate(texts)
        ]
        around = len(self._before) + len(self._separator) + len(self._after)
        body, cut = _fit(pieces, may_be_cut, self._source_room(self.target_room if target is None else target) - around)
        return [*self._before, *body, *self._separator, *self._after], cut

    def _source_room(self, target: int) -> int:
        context = self.text_model.context
        return self.room if context is None or not self.text_model.causal else min(self.max_length, context - target)

    def target(self, text: str) -> list[int]:
        """The whole target that says ``text``."""
        body = self.ids(f" {text}" if self.text_model.causal else text)
        return [*self._before_target, *body, *self._after_target]

    def prompt(self, text: str) -> list[int]:
        """The whole prompt ``text``, which a completion follows."""
        return [*self._before, *self.ids(text)]

    def completion(self, text: str) -> list[int]:
        """The whole completion ``text`` and the end token."""
        return [*self.ids(text), self.end]

    def cut(self, target: Sequence[int], source: Sequence[int]) -> Sequence[int]:
        """As much of ``target`` as there is room for behind ``source``."""
        room, context = self.max_length, self.text_model.context
        if context is not None:
            room = min(room, context - len(source) if self.text_model.causal else context)
        return target[:room]


def _affixes(tokenizer: "PreTrainedTokenizerBase", target: bool = False) -> tuple[list[int], list[int]]:
    """The special tokens before and after every text, or every ``target``."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = (tokenizer(text_target="a") if target else tokenizer("a"))["input_ids"]
    start = next(place for place in range(len(ids)) if ids[place : place + len(plain)] == plain)
    return ids[:start], ids[start + len(plain) :]


def _fit(pieces: Sequence[Sequence[int]], may_be_cut: Sequence[bool], room: int) -> tuple[list[int], bool]:
    """The pieces one after the other in at most ``room`` tokens, and whether any was cut: always the longest of those
    that may be, at its end."""
    lengths = [len(piece) for piece in pieces]
    over = sum(lengths) - room
    for _ in range(over):
        longest = max((place for place, may in enumerate(may_be_cut) if may), key=lengths.__getitem__)
        lengths[longest] = max(0, lengths[longest] - 1)
    return [number for piece, length in zip(pieces, lengths, strict=True) for number in piece[:length]], over > 0
