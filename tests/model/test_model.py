"""HyperLoaderModel: a mixed batch is the sentences one by one; generation, checkpointing, dtypes, switches."""

import copy

import pytest
import torch
from helpers import tiny
from helpers.tiny import TASK_IDS, TASKS, make_batch, make_model

from hyperloader import HyperLoaderConfig, HyperLoaderModel

each_backbone = pytest.mark.parametrize("name", tiny.BACKBONES)
each_generator = pytest.mark.parametrize("generator", ["hypernetwork", "table"])


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def assert_same(actual, expected, atol=1e-10):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            actual[name], tensor, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


@each_backbone
@each_generator
def test_mixed_batch_is_the_sentences_one_by_one(name, generator):
    model = make_model(name, generator=generator)
    batch = make_batch(name)
    together = model(**batch, task_ids=TASK_IDS)
    assert together.loss.dtype == torch.float64
    together.loss.backward()
    expected = gradients(model)
    model.zero_grad()
    for i, task_id in enumerate(TASK_IDS.tolist()):
        alone = model(**{key: tensor[i : i + 1] for key, tensor in batch.items()}, task=TASKS[task_id])
        columns = alone.logits.shape[-1]
        torch.testing.assert_close(together.logits[i : i + 1, :, :columns], alone.logits, rtol=0, atol=1e-10)
        assert (together.logits[i, :, columns:] == -torch.inf).all()
        (alone.loss / len(TASK_IDS)).backward()
    actual = gradients(model)
    for parameter_name in actual.keys() ^ expected.keys():  # heads of tasks that are in no single-task batch
        assert not expected.get(parameter_name, actual.get(parameter_name)).any(), parameter_name
    assert_same({key: actual[key] for key in actual.keys() & expected.keys()},
                {key: expected[key] for key in actual.keys() & expected.keys()})  # fmt: skip


@pytest.mark.parametrize("name", ["t5", "bert"])
@pytest.mark.parametrize("norm", ["pre", "both", "none"])
def test_other_norms_in_a_mixed_batch(name, norm):
    model = make_model(name, norm=norm)
    batch = make_batch(name)
    together = model(**batch, task_ids=TASK_IDS).logits
    alone = model(**{key: tensor[1:2] for key, tensor in batch.items()}, task=TASKS[2]).logits
    torch.testing.assert_close(together[1:2, :, : alone.shape[-1]], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["t5", "bert", "distilbert", "roberta"])
def test_two_forwards_before_one_backward_with_and_without_checkpointing(name):
    model = make_model(name).train()
    batch = make_batch(name)

    def run(task_ids):
        model.zero_grad()
        first = model(**batch | {"labels": batch["labels"].clamp(max=0)}, task=TASKS[0])
        second = model(**batch, task_ids=task_ids)
        (first.loss + 2 * second.loss).backward()
        return gradients(model)

    plain = run(TASK_IDS)
    model.gradient_checkpointing_enable()
    recomputed = run(TASK_IDS)
    model.gradient_checkpointing_disable()
    separately = {}
    for factor, arguments in (
        (1, {"labels": batch["labels"].clamp(max=0), "task": TASKS[0]}),
        (2, {"task_ids": TASK_IDS}),
    ):
        model.zero_grad()
        (factor * model(**batch | arguments).loss).backward()
        for key, grad in gradients(model).items():
            separately[key] = separately.get(key, 0) + grad
    assert_same(recomputed, plain, atol=1e-12)
    assert_same(plain, separately, atol=1e-12)


def test_checkpointing_that_cannot_work_is_refused():
    model = make_model()
    with pytest.raises(ValueError, match="use_reentrant must be False"):
        model.gradient_checkpointing_enable({"use_reentrant": True})


def test_checkpointed_graph_can_be_used_twice():
    model = make_model("bert").train()
    model.gradient_checkpointing_enable()
    loss = model(**make_batch("bert"), task_ids=TASK_IDS).loss
    first, second = (torch.autograd.grad(loss, model.task_embedding.weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", tiny.SEQUENCE_TO_SEQUENCE)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}], ids=str)
def test_generate_mixed_is_generate_one_by_one(name, options):
    model = make_model(name)
    ids = make_batch(name)["input_ids"]
    arguments = {"max_new_tokens": 6, "do_sample": False, **options}
    together = model.generate(input_ids=ids, task_ids=TASK_IDS, **arguments)
    for i, task_id in enumerate(TASK_IDS.tolist()):
        alone = model.generate(input_ids=ids[i : i + 1], task=TASKS[task_id], **arguments)[0]
        assert torch.equal(together[i, : len(alone)], alone)
    assert len({tuple(row) for row in together.tolist()}) > 1


def test_generate_with_cache_is_generate_without():
    model = make_model()
    ids = make_batch()["input_ids"]
    cached, uncached = (
        model.generate(input_ids=ids, task="a", max_new_tokens=8, do_sample=False, use_cache=cache)
        for cache in (True, False)
    )
    assert torch.equal(cached, uncached)


def test_generate_generates_the_weights_once(monkeypatch):
    model = make_model()
    calls = []
    for generator in model.generators.values():
        generator.register_forward_hook(lambda *_: calls.append(1))
    model.generate(input_ids=make_batch()["input_ids"], task="a", max_new_tokens=8, min_new_tokens=8)
    assert len(calls) == 2, "one for the encoder, one for the decoder, however many tokens"


def test_an_encoder_cannot_generate():
    with pytest.raises(TypeError, match="backbone must be able to generate, got BertModel"):
        make_model("bert").generate(input_ids=make_batch()["input_ids"], task="a")


def test_one_hypernetwork_for_both_stacks():
    model = make_model(hypernetwork_per_stack=False)
    encoder, decoder = model.generators["encoder"], model.generators["decoder"]
    assert encoder.heads is decoder.heads and encoder.condition.layer_embedding.num_embeddings == 2 + 3
    separate = make_model()
    assert model.trainable_parameters() < separate.trainable_parameters()
    batch = make_batch()
    model(**batch, task_ids=TASK_IDS).loss.backward()
    assert (encoder.condition.layer_embedding.weight.grad.abs().sum(-1) > 0).all(), "every layer has a row of its own"


def test_sites_can_be_chosen():
    model = make_model(adapter_sites=("feed_forward",), lora_sites=("cross_attention.value",))
    batch = make_batch()
    before = model(**batch, task="a").logits
    with torch.no_grad():
        model.generators["decoder"].heads["lora_B"].weight.add_(1)
    assert not torch.equal(model(**batch, task="a").logits, before)
    assert "lora_A" not in model.generators["encoder"].heads, "the encoder has no cross-attention"


def test_norms_can_stay_frozen():
    model = make_model(train_norms=False)
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


def test_bfloat16_backbone():
    model = HyperLoaderModel(tiny.make("t5", torch.bfloat16), HyperLoaderConfig(tasks=TASKS, reduction_factor=4))
    tiny.randomise(model, 0.1)  # its own parameters are float32
    output = model(**make_batch(), task_ids=TASK_IDS)
    output.loss.backward()
    assert output.logits.dtype == torch.bfloat16 and output.loss.isfinite()
    assert model.task_embedding.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", ["t5", "bert"])
def test_autocast(name):
    model = make_model(name, torch.float32)
    batch = make_batch(name)
    exact = model(**batch, task_ids=TASK_IDS).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch, task_ids=TASK_IDS).loss
    loss.backward()
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0.05)
    assert model.task_embedding.weight.grad.isfinite().all()


def test_copies_are_independent_and_work():
    model = make_model()
    twin = copy.deepcopy(model)
    batch = make_batch()
    before = model(**batch, task="a").logits
    tiny.randomise(twin)
    assert torch.equal(model(**batch, task="a").logits, before)
    assert not torch.equal(twin(**batch, task="a").logits, before)


def test_width_of_logits_does_not_depend_on_the_batch():
    model, batch = make_model("bert"), make_batch("bert")
    same = model(batch["input_ids"], task_ids=torch.zeros(5, dtype=torch.int64)).logits
    alone = model(batch["input_ids"], task=TASKS[0]).logits
    assert same.shape[-1] == 5
    assert torch.equal(same[..., :3], alone)
    assert (same[..., 3:] == -torch.inf).all()


def test_nothing_labelled_costs_nothing():
    model, batch = make_model("bert"), make_batch("bert")
    loss = model(**batch | {"labels": torch.full((5, 7), -100)}, task_ids=TASK_IDS).loss
    loss.backward()
    assert loss == 0
    assert not model.task_embedding.weight.grad.any()


def test_attentions_and_hidden_states_are_passed_on():
    model = make_model("bert")
    model.backbone.set_attn_implementation("eager")
    outputs = model(**make_batch("bert"), task_ids=TASK_IDS, output_attentions=True, output_hidden_states=True)
    assert [len(outputs.attentions), len(outputs.hidden_states)] == [2, 3]
    assert outputs.attentions[0].shape == (5, 2, 7, 7)
