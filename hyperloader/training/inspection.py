"""Does the hypernetwork use its inputs? Norms and similarities of what it generates, and a control."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hyperloader import HyperLoaderModel
from hyperloader.nn.described import DescribedEmbedding

SiteTensors = dict[tuple[str, str, str], Tensor]


@torch.no_grad()
def all_weights(model: HyperLoaderModel) -> SiteTensors:
    """All that is generated: (stack, site, weight's name) -> (layers, tasks, numbers) float32."""
    tasks = torch.arange(len(model.hyperloader_config.tasks), device=next(model.generators.parameters()).device)
    inputs = tasks if model.hyperloader_config.generator == "table" else model.task_embedding(tasks)
    found = {}
    for stack, generator in model.generators.items():
        weights, layout = generator(inputs, grouped=True, dtype=torch.float32), generator.layout
        for part in layout.parts:
            for site in part.sites:
                for number, name in enumerate(part.shapes):
                    of_layers = [weights[layer, site][number].flatten(1) for layer in range(layout.num_layers)]
                    found[stack, site, name] = torch.stack(of_layers)
    return found


def norms(weights: SiteTensors) -> list[dict]:
    """Euclidean norms over tasks and layers: ``stack``, ``site``, ``weight``, ``mean``, ``least``, ``most`` of each."""
    rows = []
    for (stack, site, name), tensor in weights.items():
        lengths = tensor.double().norm(dim=-1)
        numbers = {"mean": lengths.mean().item(), "least": lengths.min().item(), "most": lengths.max().item()}
        rows.append({"stack": stack, "site": site, "weight": name, **numbers})
    return rows


def task_similarity(weights: SiteTensors) -> dict[str, Tensor]:
    """Cosine similarity of what two tasks get, averaged over stacks, sites and layers: weight's name -> (tasks, tasks).

    Pairs in which one is all zeros have none and are left out of the averages; NaN where no pair is left.
    """
    found: dict[str, list[Tensor]] = {}
    for (_, _, name), tensor in weights.items():
        found.setdefault(name, []).append(cosines(tensor))  # (layers, tasks, tasks)
    return {name: torch.cat(some).nanmean(0) for name, some in found.items()}


def layer_similarity(weights: SiteTensors) -> dict[tuple[str, str], Tensor]:
    """The same for two layers, averaged over sites and tasks: (stack, weight's name) -> (layers, layers)."""
    found: dict[tuple[str, str], list[Tensor]] = {}
    for (stack, _, name), tensor in weights.items():
        found.setdefault((stack, name), []).append(cosines(tensor.transpose(0, 1)))  # (tasks, layers, layers)
    return {key: torch.cat(some).nanmean(0) for key, some in found.items()}


def cosines(vectors: Tensor) -> Tensor:
    """(..., n, n) float64 of ``vectors`` (..., n, numbers); NaN where a vector is zero."""
    vectors = vectors.double()
    directions = vectors / vectors.norm(dim=-1, keepdim=True)
    return directions @ directions.mT


def between(similarity: Tensor) -> float:
    """Mean over the pairs of different rows, NaN if there is none."""
    others = ~torch.eye(len(similarity), dtype=torch.bool)
    return similarity[others].nanmean().item()


def other_tasks(tasks: Sequence[str]) -> dict[str, str]:
    """Every task and the one whose weights it gets in the control: the next one, the last gets the first's."""
    return dict(zip(tasks, [*tasks[1:], *tasks[:1]], strict=True))


@contextmanager
def shuffled(model: HyperLoaderModel, others: Mapping[str, str]) -> Iterator[None]:
    """Inside the block every task's weights are those generated for ``others[task]``; its head stays its own.

    The embeddings, or the rows of a table, are permuted and then restored to the bit; of tasks in words their
    descriptions alone, while their rows stay.
    """
    tasks = model.hyperloader_config.tasks
    ids = {task: number for number, task in enumerate(tasks)}
    order = torch.tensor([ids[others[task]] for task in tasks])
    if model.hyperloader_config.generator == "table":
        tensors = [(tensor, 1) for tensor in model.generators.parameters()]
    elif isinstance(model.task_embedding, DescribedEmbedding):
        tensors, starts = [(model.task_embedding.texts, 0)], model.task_embedding.starts.cpu()
        order = torch.arange(len(model.task_embedding.texts)).index_copy(0, starts, starts[order])
    elif model.task_embedding.row is None:
        tensors = [(model.task_embedding.weight, 0)]
    else:
        raise ValueError("the model must not be frozen except for one task: call unfreeze() first")
    kept = [tensor.detach().clone() for tensor, _ in tensors]
    try:
        with torch.no_grad():
            for (tensor, axis), before in zip(tensors, kept, strict=True):
                tensor.copy_(before.index_select(axis, order.to(before.device)))
        yield
    finally:
        with torch.no_grad():
            for (tensor, _), before in zip(tensors, kept, strict=True):
                tensor.copy_(before)


def control(model: HyperLoaderModel, score: Callable[[HyperLoaderModel], dict]) -> dict | None:
    """Scores with every task's own weights, ``right``, and with another task's, ``shuffled``; ``others`` says whose.

    A model that uses its task embeddings is worse with those of others. None for a model of one task.
    """
    tasks = model.hyperloader_config.tasks
    if len(tasks) < 2:
        return None
    others = other_tasks(tasks)
    right = score(model)
    with shuffled(model, others):
        wrong = score(model)
    return {"others": others, "right": right, "shuffled": wrong}
