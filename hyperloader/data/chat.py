"""Chats as a tokenizer's own template writes them, and which of their tokens are the assistant's."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hyperloader.data.written_text import ASSISTANT
from hyperloader.nn.loss import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """The chat template of a fast ``tokenizer``.

    ``end``: the special token with which the assistant's turns end.

    Raises:
        ValueError: there is no template, or none whose turns can be told apart.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                "the tokenizer has no chat template; take a model that was trained for chats, put chat_template.jinja "
                "into its folder, or give prompts and completions"
            )
        self.tokenizer = tokenizer
        probe = [{"role": "user", "content": "a"}, {"role": ASSISTANT, "content": "b"}]
        added = tokenizer.added_tokens_decoder
        special = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        before, ids = self.prompt(probe[:1]), self._ids(self._text(probe))
        ends = [number for number in ids[len(before) :] if number in special]
        if ids[: len(before)] != before or not ends:
            raise ValueError(
                "the chat template must end an assistant's turn with a special token, got "
                f"{self._text(probe)!r} for two messages; correct it"
            )
        self.end = ends[0]

    def prompt(self, messages: Messages) -> list[int]:
        """The token ids of ``messages`` and the beginning of the assistant's turn."""
        return self._ids(self._text(messages, add_generation_prompt=True))

    def encode(self, messages: Messages) -> tuple[list[int], list[int]]:
        """The token ids of ``messages``, and their labels: the same in the assistant's turns, from its first token to
        ``end``, and -100 elsewhere.

        Raises:
            ValueError: the template writes the messages before a turn otherwise than without it.
        """
        ids = self._ids(self._text(messages))
        labels = [IGNORED] * len(ids)
        for number, message in enumerate(messages):
            if message["role"] != ASSISTANT:
                continue
            before = self.prompt(messages[:number])
            if ids[: len(before)] != before or self.end not in ids[len(before) :]:
                raise ValueError(
                    f"the chat template writes what stands before message {number + 1} otherwise when that follows, so "
                    "that its tokens cannot be told apart; correct the template, or train single turns"
                )
            after = ids.index(self.end, len(before)) + 1
            labels[len(before) : after] = ids[len(before) : after]
        return ids, labels

    def _text(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        from jinja2 import TemplateError

        some: Any = [dict(one) for one in messages]
        try:
            options: Any = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
            return str(self.tokenizer.apply_chat_template(some, **options))
        except TemplateError as error:
            raise ValueError(f"the chat template refuses the messages: {error}; correct them") from error

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
