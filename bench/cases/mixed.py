"""Many tasks in one batch: what it costs over a batch of one task."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.backbones import make_batch, make_model
from bench.baselines import plain
from bench.baselines.models import PlainModel
from bench.case import BOTH, FORWARD, Calls, Case, Pass, Point, Provider, Setting
from bench.cases.step import STEP, step_calls, step_of
from bench.providers import PLAIN, as_reference, backward_calls, forward_calls, ours, random_tensors
from hyperloader import ops

ONE_TASK = ", one task"
_SENTENCES = 64
_PLAIN = {"adapter": plain.adapter, "lora_linear": plain.lora_linear}
_OURS = {"adapter": ops.adapter, "lora_linear": ops.lora_linear}


def point(
    what: str, tasks: int, tokens: int, hidden: int, sentences: int = _SENTENCES, headline: bool = False
) -> Point:
    """A batch whose sentences take turns at the tasks."""
    sizes = {"what": what, "tasks": tasks, "sentences": sentences, "tokens": tokens, "hidden": hidden}
    name = f"{what}, {tasks} task{'s' if tasks > 1 else ''}, {sentences} × {tokens} × {hidden}"
    return Point(name, sizes, f"tasks: {what}", headline)


def passes(at: Point, setting: Setting) -> Iterator[Pass]:
    """An operator forward, and forward and backward; or a training step of the whole model."""
    which = torch.arange(at.sizes["sentences"], device=setting.device) % at.sizes["tasks"]
    if at.sizes["what"] in _OURS:
        yield _operator(FORWARD, forward_calls, at, setting, which)
        yield _operator(BOTH, backward_calls, at, setting, which)
    else:
        yield _step(at, setting, which)


def _operator(name: str, calls: Callable[..., Calls], at: Point, setting: Setting, which: Tensor) -> Pass:
    operator, tasks = at.sizes["what"], at.sizes["tasks"]
    baseline, own = _PLAIN[operator], _OURS[operator]
    group = which if tasks > 1 else None
    inputs, exact = _inputs(at, setting, tasks, setting.dtype), _inputs(at, setting, tasks, torch.float64)
    single = _inputs(at, setting, 1, setting.dtype)

    def plain_one(*tensors: Tensor) -> list[Tensor]:
        return [baseline(*tensors, group=group)]

    providers = [
        Provider(PLAIN, lambda: calls(plain_one, inputs)),
        *ours(lambda: calls(lambda *tensors: [own(*tensors, group=group)], inputs)),
    ]
    if tasks > 1:
        providers += ours(lambda: calls(lambda *tensors: [own(*tensors)], single), ONE_TASK, compared=False)[:1]
    expected = as_reference(lambda: calls(lambda *tensors: [own(*tensors, group=group)], exact))
    return Pass(name, providers, expected, units=at.sizes["sentences"] * at.sizes["tokens"], unit="tokens")


def _inputs(at: Point, setting: Setting, tasks: int, dtype: torch.dtype) -> list[Tensor]:
    sentences, tokens, hidden = (at.sizes[name] for name in ("sentences", "tokens", "hidden"))
    stacked = (tasks,) if tasks > 1 else ()
    bottleneck = hidden // 32
    if at.sizes["what"] == "lora_linear":
        shapes = [(hidden, hidden), (hidden,), (*stacked, 8, hidden), (*stacked, hidden, 8)]
    else:
        weights = [(bottleneck, hidden), (bottleneck,), (hidden, bottleneck), *[(hidden,)] * 3]
        shapes = [(*stacked, *shape) for shape in weights]
    found = random_tensors([(sentences, tokens, hidden), *shapes], setting, dtype)
    if at.sizes["what"] == "lora_linear":
        found[1].requires_grad_(False)
        found[2].requires_grad_(False)
    return found


def _step(at: Point, setting: Setting, which: Tensor) -> Pass:
    backbone, tasks = at.sizes["what"], at.sizes["tasks"]
    batch = make_batch(backbone, setting, at.sizes["sentences"], at.sizes["tokens"])

    def model():
        return make_model(backbone, setting, tasks=tasks)

    def plain_step() -> Calls:
        built = PlainModel(model())
        return step_calls(lambda: built(**batch, which=which if tasks > 1 else 0)[0], built.trained)

    providers = [Provider(PLAIN, plain_step), *ours(lambda: step_of(model(), batch, task_ids=which))]
    if tasks > 1:
        providers += ours(lambda: step_of(model(), batch), ONE_TASK, compared=False)[:1]
    expected = as_reference(lambda: step_of(model().double(), batch, task_ids=which))
    return Pass(STEP, providers, expected, units=at.sizes["sentences"] * at.sizes["tokens"], unit="tokens")


CASE = Case(
    name="mixed",
    title="Several tasks in one batch",
    points=[
        *(point("adapter", tasks, 32, 768, headline=tasks == 8) for tasks in (1, 2, 4, 8, 16, 64)),
        *(point("lora_linear", tasks, 32, 768, headline=tasks == 8) for tasks in (1, 2, 4, 8, 16, 64)),
        *(point("MiniLM", tasks, 16, 384, headline=tasks == 8) for tasks in (1, 2, 4, 8, 16, 64)),
    ],
    passes=passes,
    gate=point("adapter", 3, 8, 64, sentences=6),
)
