"""Examples whose answer is any text: a source and its target, a prompt and its completion, a chat and its reply."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperloader.data.kinds import CHAT, COMPLETION, TEXT_TO_TEXT
from hyperloader.data.labelled_text import check_text
from hyperloader.data.sentence import DataError
from hyperloader.validation import held, shown

FIELDS = {TEXT_TO_TEXT: ("source", "target"), COMPLETION: ("prompt", "completion"), CHAT: ("messages",)}
ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class WrittenText:
    """What is given, and what is to be written; None where none was asked for. path, line: where it stands."""

    given: str
    wanted: str | None
    path: str = ""
    line: int = 0

    @property
    def content(self) -> tuple[str, ...]:
        """What the model sees."""
        return (self.given,)

    @property
    def gold(self) -> str | None:
        """What is to be predicted."""
        return self.wanted

    @property
    def where(self) -> str:
        """``FILE:LINE``."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Chat:
    """The messages of a chat, and the assistant's last one, the reply to them; None where none was asked for.

    A message has ``role``, ``content`` and whatever else the tokenizer's template reads.
    """

    messages: tuple[Mapping[str, Any], ...]
    reply: Mapping[str, Any] | None
    path: str = ""
    line: int = 0

    @property
    def content(self) -> tuple[str, ...]:
        """What the model sees."""
        return tuple(text for one in self.messages for text in (one["role"], one["content"]))

    @property
    def gold(self) -> str | None:
        """What is to be predicted."""
        return None if self.reply is None else self.reply["content"]

    @property
    def where(self) -> str:
        """``FILE:LINE``."""
        return f"{self.path}:{self.line}"


def make_written(given: Any, wanted: Any, kind: str, path: str, line: int, *, labelled: bool = True) -> WrittenText:
    """A checked example of kind ``text-to-text`` or ``completion``. Raises DataError for anything but text;
    without ``labelled`` what is wanted is not looked at."""
    key, wanted_key = FIELDS[kind]
    check_text(given, key, f"{path}:{line}")
    if labelled:
        check_text(wanted, wanted_key, f"{path}:{line}")
    return WrittenText(given, wanted if labelled else None, path, line)


def make_chat(messages: Any, path: str, line: int, *, labelled: bool = True) -> Chat:
    """A checked chat, the last message of which is the reply; without ``labelled`` it may be missing, and is left out.

    Raises:
        DataError: no list of messages with role and content, or no reply.
    """
    where = f"{path}:{line}"
    if not isinstance(messages, list) or not messages:
        example = '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
        raise DataError(f"{where}: messages must be a list such as {example}, got {shown(messages)}; correct it")
    found = tuple(_message(one, number, where) for number, one in enumerate(messages, 1))
    replied = found[-1]["role"] == ASSISTANT
    if labelled and not replied:
        raise DataError(
            f"{where}: the last message must be the assistant's, got one of {found[-1]['role']!r}; add the reply, or "
            "remove the message"
        )
    asked = found[:-1] if replied else found
    if not asked:
        raise DataError(f"{where}: messages must hold one before the assistant's reply, got none; add it")
    return Chat(asked, found[-1] if labelled else None, path, line)


def _message(message: Any, number: int, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise DataError(f"{where}: message {number} must be an object with role and content, got {shown(message)}")
    for key in ("role", "content"):
        if key not in message:
            raise DataError(f"{where}: message {number} has no {key!r}, it has {held(message)}; add it")
    check_text(message["role"], f"the role of message {number}", where)
    if message["role"] == ASSISTANT or message["content"] != "":
        check_text(message["content"], f"the content of message {number}", where)
    return {key: value for key, value in message.items() if value is not None}
