"""What a request may hold, and the questions that it stands for."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict

from hyperloader.data.sentence import DataError
from hyperloader.json_file import without_repeats
from hyperloader.serving.inputs import Input
from hyperloader.serving.predictor import Question
from hyperloader.serving.refusals import Refusal
from hyperloader.serving.registry import Version
from hyperloader.serving.settings import WEIGHT, Settings
from hyperloader.validation import check_choice

_NAME = "inputs"
_TASKS = ("tasks",)  # their field
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # of a surrogate pair
_DEEPEST = 200  # levels that ``from_json`` takes


class InputObject(TypedDict, total=False):
    """One input: ``text``, with ``text_pair`` where the task is one of pairs, or ``tokens``, its words; ``task`` unless
    ``tasks`` names them for all inputs. Every other key comes back with the answer."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    task: str
    text: str
    text_pair: str
    tokens: list[str | dict[str, Any]]


class PredictRequest(BaseModel):
    """Inputs, and the tasks that are asked about each: those in ``tasks``, or all that take such an input."""

    model_config = ConfigDict(extra="forbid")
    inputs: Annotated[list[InputObject], Field(min_length=1)]
    tasks: Literal["all"] | Annotated[list[str], Field(min_length=1)] | None = None


class ReloadRequest(BaseModel):
    """The run of which a new version is to be loaded; all of them if none is named."""

    model_config = ConfigDict(extra="forbid")
    run: str | None = None


def parsed(model: type[BaseModel], body: bytes) -> Any:
    """The body as ``model``. Raises ``Refusal`` (422) with the field that is wrong."""
    body = body or b"{}"
    try:
        if (b"\\" in body and _HALF.search(body)) or body.count(b"[") + body.count(b"{") > _DEEPEST:
            from_json(body)  # refuses what Python takes: half a surrogate pair, and what is nested too deep
        return model.model_validate(json.loads(body.decode(), object_pairs_hook=without_repeats))
    except (ValueError, RecursionError) as error:
        raise _refusal(model, body, error) from None


def _refusal(model: type[BaseModel], body: bytes, error: Exception) -> Refusal:
    """What is wrong with a body that is none, in the words of JSON where pydantic has any."""
    try:
        model.model_validate_json(body)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
        of_tasks = model is PredictRequest and first["loc"][:1] == _TASKS
        message = 'must be "all" or a list of at least one name of a task' if of_tasks else first["msg"]
        return Refusal(422, "invalid", message, field=_path(first["loc"]))
    return Refusal(422, "invalid", str(error), field="body")


def _path(places: tuple) -> str:
    """``inputs[2].text``; without the names of the types of which one would do."""
    places = places[: 1 if places[:1] == _TASKS else 4]
    path = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in places)
    return path.removeprefix(".") or "body"


def questions(
    request: PredictRequest, tasks: Mapping[str, Version], settings: Settings
) -> tuple[list[tuple[Version, Question]], int]:
    """What is asked, each for the version of the run that has the task, and how much of the queue it takes.

    Raises:
        Refusal: a task or an input that is none (422), too many of them (413).
    """
    common = _known(request.tasks, tasks, "tasks") if isinstance(request.tasks, list) else []
    asked: list[tuple[Version, Question]] = []
    for number, record in enumerate(request.inputs):
        for task in _tasks(request, record, number, tasks, common):
            if len(asked) == settings.max_inputs:
                raise Refusal(
                    413, "too_large", f"inputs times tasks must be at most {settings.max_inputs:,}", field=_NAME
                )
            version = tasks[task]
            try:
                given = version.predictor.forms[task].read(dict(record), number + 1, _NAME)
            except DataError as error:
                message = str(error).removeprefix(f"{_NAME}:{number + 1}: ")
                raise Refusal(422, "invalid", message, field=f"{_NAME}[{number}]") from None
            asked.append((version, Question(task, given)))
    return asked, sum(1 + _characters(one.given) // WEIGHT for _, one in asked)


def _characters(given: Input) -> int:
    return len(given.text) + len(given.text_pair or "") + sum(len(str(one)) for one in given.messages or ())


def _tasks(
    request: PredictRequest, record: InputObject, number: int, tasks: Mapping[str, Version], common: list[str]
) -> list[str]:
    """Those that are asked about an input; ``common``: what the request lists for all."""
    own, field = record.get("task"), f"{_NAME}[{number}].task"
    if request.tasks is None:
        if own is None:
            if len(tasks) > 1:
                raise Refusal(422, "invalid", "a task must be named, here or for all inputs under tasks", field=field)
            return list(tasks)
        return _known([own], tasks, field)
    if own is not None:
        raise Refusal(422, "invalid", "a task must be named once, here or under tasks", field=field)
    if request.tasks == "all":
        found = [task for task, version in tasks.items() if version.predictor.forms[task].takes(record)]
        if not found:
            raise Refusal(422, "invalid", "no task takes such an input", field=f"{_NAME}[{number}]")
        return found
    return common


def _known(names: list[str], tasks: Mapping[str, Version], field: str) -> list[str]:
    """``names``, each once; raises ``Refusal`` (422) for one that is no task."""
    found = list(dict.fromkeys(names))
    for name in found:
        try:
            check_choice("task", name, tasks, "tasks")
        except ValueError as error:
            raise Refusal(422, "unknown_task", str(error), field=field) from None
    return found
