"""Many tasks: what is done once a task, and what must not be done for all of them each time."""

import dataclasses

import pytest
import safetensors
import torch
from helpers import tiny
from helpers.lines import lines_of
from torch import nn

from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.model.new_tasks import extended_config
from hyperloader.model.sizes import tensors_of

KINDS = {"t1": "classification", "t2": "regression", "t3": "multi-label"}
DESCRIBED = {"task_condition": "description", "label_words": {"t0": {"x": "a thing"}}}


def config_of(count, **options):
    tasks = [f"t{number}" for number in range(count)]
    labels = {task: ["O", "B-x", "I-x"][: 1 if task == "t2" else 2 + number % 2] for number, task in enumerate(tasks)}
    if options.get("task_condition") == "description":
        options["descriptions"] = {task: [f"about {task}", "again"][: 1 + number % 2]
                                   for number, task in enumerate(tasks)}  # fmt: skip
    return HyperLoaderConfig(tasks=tasks, labels=labels, reduction_factor=4, rank=2, **options)


def model_of(count, **options):
    return HyperLoaderModel(tiny.make("bert"), config_of(count, **options), embed_texts=False)


@pytest.mark.parametrize("options", [{}, DESCRIBED, {"generator": "table"}], ids=["names", "words", "table"])
def test_the_tensors_of_a_model_are_known_before_it_is_built(options):
    model = model_of(6, kinds=KINDS, units={"t2": (1, 2)}, **options)
    found = tensors_of(model.backbone, model.hyperloader_config, model.layouts)
    stored = {name: tensor for name, tensor in model.trainable_state().items() if not name.startswith("backbone.")}
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tensor.shape for name, tensor in stored.items()
    }
    assert all(tensor.is_meta for tensor in found.values())


def test_heads_are_built_once(monkeypatch):
    """And before that one for each number of labels, to know how large they are."""
    made, init = [], nn.Linear.__init__

    def counting(self, *arguments, **options):
        made[-1] += 1
        init(self, *arguments, **options)

    monkeypatch.setattr(nn.Linear, "__init__", counting)
    for count in (4, 104):
        made.append(0)
        model_of(count)
    assert made[1] == made[0] + 100


@pytest.mark.parametrize("options", [{}, DESCRIBED], ids=["names", "words"])
def test_a_config_with_one_more_task_is_what_it_would_be_at_once(options):
    before, whole = config_of(3, kinds=dict(list(KINDS.items())[:2]), **options), config_of(4, kinds=KINDS, **options)
    words = {"description": ["about t3", "again"]} if options else {}
    found = extended_config(before, "t3", ["O", "B-x", "I-x"], "multi-label", **words)
    assert found == whole and found.to_dict() == whole.to_dict()
    assert list(found.labels) == list(whole.labels) and before == config_of(3, kinds=before.kinds, **options)


def test_a_task_is_added_to_many_as_to_few():
    few, many = model_of(3), model_of(400)
    few.add_task("first", labels=["O"])  # what runs once a process
    found = [lines_of(model.add_task, "new", labels=["O", "B-y"]) for model in (few, many)]
    assert found[1] <= found[0] + 20
    for model in (few, many):
        sizes = torch.tensor([head.out_features for head in model.heads.heads])
        assert torch.equal(model.heads.sizes, sizes)
        assert torch.equal(model.heads.starts, sizes.cumsum(0) - sizes)
        assert len(model.heads.kind_numbers) == len(sizes)


def test_one_task_of_many_is_taken_out_as_one_of_few():
    few, many = model_of(3), model_of(300)
    few.heads.of(1)
    found = [lines_of(model.heads.of, 1) for model in (few, many)]
    assert found[1] <= found[0] + 20
    alone = many.heads.of(299)
    for name, tensor in many.heads.heads[299].state_dict().items():
        own = alone.state_dict()[f"heads.0.{name}"]
        assert torch.equal(own, tensor) and own.data_ptr() != tensor.data_ptr()
    assert (alone.sizes.tolist(), len(alone.kinds), len(many.heads.heads)) == ([3], 1, 300)


@torch.no_grad()
@pytest.mark.parametrize("selected", [{"task": "t3"}, {"task_ids": torch.tensor([0, 2, 1, 0, 69])}], ids=str)
def test_a_batch_of_many_tasks_is_computed_as_one_of_few(selected):
    few, many = (model_of(count).eval() for count in (70, 400))
    for model in (few, many):
        model(tiny.make_batch("bert")["input_ids"], **selected)  # generates the tasks' weights
    found = [lines_of(model, tiny.make_batch("bert")["input_ids"], **selected) for model in (few, many)]
    assert found[1] <= found[0] + 20


def test_with_sparse_gradients_a_model_is_built_in_few_lines_a_task():
    counts = []
    for count in (3, 100, 300):  # the first runs what runs once a process
        config, backbone = config_of(count, sparse_gradients=True), tiny.make("bert")
        counts.append(lines_of(HyperLoaderModel, backbone, config))
    assert counts[2] - counts[1] < 40 * 200


@pytest.mark.slow
def test_ten_thousand_heads_are_saved_and_loaded(tmp_path):
    config = dataclasses.replace(config_of(10_000, sparse_gradients=True), task_embedding_dim=4)
    model = HyperLoaderModel(tiny.make("bert"), config)
    model.heads.begin_at([list(range(len(labels))) for labels in config.labels.values()])
    model.save_pretrained(tmp_path)
    again = HyperLoaderModel.from_pretrained(tmp_path, tiny.make("bert"))
    for one, two in zip(model.heads.parameters(), again.heads.parameters(), strict=True):
        assert torch.equal(one, two) and one.any()
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("heads.heads.9999.bias"), model.heads.own_rows(9999)[1])
