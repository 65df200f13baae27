"""A training step and a cached decoding step as CUDA graphs: the time of the GPU, without that of the host.

Without a GPU there are no graphs, and the steps themselves run.
"""

import copy
from collections.abc import Callable, Iterator

import torch

from bench.backbones import make_batch, make_model
from bench.baselines.models import BaselineModel
from bench.case import Calls, Case, Pass, Point, Provider, Setting
from bench.cases.step import FROZEN, OF_RELU, STEP, step_calls
from bench.clock import WALL
from bench.providers import as_reference, ours
from hyperloader import HyperLoaderModel

DECODING = "decoding step"
_WARM_UP = 3  # calls that compile kernels and ask for memory, before one is captured


def point(backbone: str, sentences: int, tokens: int, what: str = STEP) -> Point:
    """A batch of ``sentences`` of ``tokens`` tokens; a T5 or a decoder decodes one more token of each."""
    sizes = {"backbone": backbone, "sentences": sentences, "tokens": tokens, "what": what}
    return Point(f"{backbone}, {sentences} × {tokens} tokens, {what}", sizes, headline=True, device="cuda")


def passes(at: Point, setting: Setting) -> Iterator[Pass]:
    """The step of ours and of the frozen backbone."""
    backbone, what = at.sizes["backbone"], at.sizes["what"]
    batch = make_batch(backbone, setting, at.sizes["sentences"], at.sizes["tokens"])

    def model() -> HyperLoaderModel:
        made = make_model(backbone, setting)
        made.backbone.config.use_cache = what == DECODING
        return made

    def own(built: HyperLoaderModel) -> Calls:
        task = built.hyperloader_config.tasks[0]
        if what == DECODING:
            return _decoding(lambda **inputs: built(**inputs, task=task), built, batch)
        trained = {name: parameter for name, parameter in built.named_parameters() if parameter.requires_grad}
        return step_calls(lambda: built(**batch, task=task).loss, trained, capturable=True)

    def frozen() -> Calls:
        built = BaselineModel(model())
        if what == DECODING:
            return _decoding(built.backbone, built, batch)
        return step_calls(lambda: built(**batch)[0], built.trained, capturable=True)

    yield Pass(
        what,
        [
            *ours(lambda: _captured(own(model()))),
            Provider(FROZEN, lambda: _captured(frozen()), compared=False),
        ],
        as_reference(lambda: own(model().double())),
        forgiven=OF_RELU if "T5" in backbone else 1,
    )


def _decoding(call: Callable, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Calls:
    """One token more for every sentence, from what the encoder and the tokens before have left."""
    model.eval()
    first = batch["labels"][:, :1]
    with torch.no_grad():
        if model.backbone.config.is_encoder_decoder:
            before = call(input_ids=batch["input_ids"], decoder_input_ids=first, use_cache=True)
            after = {"decoder_input_ids": first, "encoder_outputs": (before.encoder_last_hidden_state,)}
        else:
            before = call(input_ids=batch["input_ids"], use_cache=True)
            after = {"input_ids": first}

    def run() -> list[torch.Tensor]:
        with torch.no_grad():
            cache = copy.deepcopy(before.past_key_values)  # a step writes into it
            return [call(**after, past_key_values=cache).logits]

    return Calls.of(run)


def _captured(calls: Calls) -> Calls:
    if not torch.cuda.is_available():
        return calls
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            calls.run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        calls.run()
    return Calls(graph.replay, calls.results)


CASE = Case(
    name="captured",
    title="Steps as CUDA graphs",
    points=[
        point("T5-base", 32, 64),
        point("MiniLM", 32, 32),
        point("MiniLM", 4, 32),
        point("T5-small", 8, 32, DECODING),
        point("T5-base", 8, 32, DECODING),
        point("Llama 1B", 8, 64),
        point("Llama 1B", 8, 32, DECODING),
    ],
    passes=passes,
    clock=WALL,
)
