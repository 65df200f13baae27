"""HyperLoaderModel: exact sizes, attaching and detaching, and that a mixed batch is the sentences one by one."""

import copy

import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration, Trainer, TrainingArguments

from hyperloader import HyperLoaderConfig, HyperLoaderModel

TASKS = ["a", "b c", "ü.weight"]
LABELS = {"a": ["O", "B-x", "I-x"], "b c": ["O"], "ü.weight": ["O", "B-y", "I-y", "B-z", "I-z"]}
TASK_IDS = torch.tensor([0, 2, 1, 0, 2])

each_backbone = pytest.mark.parametrize("name", tiny.BACKBONES)
each_generator = pytest.mark.parametrize("generator", ["hypernetwork", "table"])


def make_model(name="t5", dtype=torch.float64, randomised=True, **options):
    if name not in tiny.SEQUENCE_TO_SEQUENCE:
        options.setdefault("labels", LABELS)
    config = HyperLoaderConfig(tasks=TASKS, **{"reduction_factor": 4, "rank": 2} | options)
    model = HyperLoaderModel(tiny.make(name, dtype), config).to(dtype).eval()
    if randomised:
        tiny.randomise(model)
    return model


def make_batch(name="t5"):
    torch.manual_seed(2)
    batch = {"input_ids": torch.randint(2, tiny.VOCABULARY, (5, 7)), "attention_mask": torch.ones(5, 7).long()}
    if name in tiny.SEQUENCE_TO_SEQUENCE:
        batch["labels"] = torch.randint(2, tiny.VOCABULARY, (5, 6))
    else:
        sizes = torch.tensor([len(LABELS[task]) for task in TASKS])[TASK_IDS]
        batch["labels"] = torch.randint(10**6, (5, 7)) % sizes[:, None]
    return batch


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def assert_same(actual, expected, atol=1e-10):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            actual[name], tensor, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("num_tasks", "options", "expected"),
    [(7, {}, 6_784_368), (8, {}, 6_784_432), (7, {"lora_sites": ()}, 5_210_992)],
)
def test_trainable_parameters_of_t5_base(num_tasks, options, expected):
    sizes = {"d_model": 768, "d_kv": 64, "num_heads": 12, "d_ff": 3072, "num_layers": 12, "vocab_size": 8}
    backbone = T5ForConditionalGeneration(T5Config(**sizes))
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=[str(i) for i in range(num_tasks)], **options))
    assert model.trainable_parameters() == expected
    if not options:
        assert [sum(p.numel() for p in g.parameters()) for g in model.generators.values()] == [3_368_152] * 2
        assert model.task_embedding.weight.numel() == 64 * num_tasks
        norms = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
        assert norms == 62 * 768


def test_print_trainable_parameters(capsys):
    model = make_model()
    model.print_trainable_parameters()
    assert f"trainable parameters: {model.trainable_parameters():,} |" in capsys.readouterr().out


@each_backbone
def test_attaching_copies_nothing_and_detach_gives_the_backbone_back(name):
    backbone = tiny.make(name)
    for parameter in list(backbone.parameters())[::2]:
        parameter.requires_grad_(False)
    before = copy.deepcopy(backbone)
    storages = {key: tensor.data_ptr() for key, tensor in backbone.state_dict().items()}
    labels = None if name in tiny.SEQUENCE_TO_SEQUENCE else LABELS
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, labels=labels, reduction_factor=4))
    assert model.backbone is backbone
    assert {tensor.data_ptr() for tensor in backbone.state_dict().values()} == set(storages.values())

    tiny.randomise(model)  # trained norms change the backbone
    batch = make_batch(name)
    model(**batch | {"labels": batch["labels"].clamp(max=1)}, task="a").loss.backward()
    returned = model.detach()
    assert returned is backbone
    state = backbone.state_dict()
    assert list(state) == list(storages)
    for key, tensor in before.state_dict().items():
        assert torch.equal(state[key], tensor) and state[key].data_ptr() == storages[key], key
    for (key, one), (_, other) in zip(before.named_parameters(), backbone.named_parameters(), strict=True):
        assert one.requires_grad == other.requires_grad and other.grad is None, key
    inputs = {"input_ids": make_batch(name)["input_ids"]}
    if name in tiny.SEQUENCE_TO_SEQUENCE:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    assert torch.equal(returned(**inputs)[0], before(**inputs)[0])


@each_backbone
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_scaled_new_model_computes_what_its_backbone_does(name, norm):
    backbone = tiny.make(name, torch.float64)
    ids = make_batch(name)["input_ids"]
    inputs = {"input_ids": ids, "output_hidden_states": True}
    if name in tiny.SEQUENCE_TO_SEQUENCE:
        inputs["decoder_input_ids"] = ids
    key = "decoder_hidden_states" if name in tiny.SEQUENCE_TO_SEQUENCE else "hidden_states"
    expected = backbone(**inputs)[key]
    labels = None if name in tiny.SEQUENCE_TO_SEQUENCE else LABELS
    config = HyperLoaderConfig(tasks=TASKS, labels=labels, reduction_factor=4, init="scaled", norm=norm)
    model = HyperLoaderModel(backbone, config).double().eval()
    for one, other in zip(model(**inputs, task="a")[key], expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@each_backbone
def test_a_published_new_model_has_no_lora_update(name):
    """Without adapters the published initialisation leaves the backbone's function alone: lora_B is zero."""
    backbone = tiny.make(name, torch.float64)
    ids = make_batch(name)["input_ids"]
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if name in tiny.SEQUENCE_TO_SEQUENCE else {})
    expected = backbone(**inputs)[0]
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, adapter_sites=())).double().eval()
    torch.testing.assert_close(model(**inputs, task="a")[0], expected, rtol=0, atol=1e-12)


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
    tiny.randomise(model, 0.1)
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


@pytest.mark.parametrize("name", ["t5", "bert"])
def test_compiles_without_graph_breaks(name):
    model = make_model(name)
    batch = make_batch(name)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    batch["labels"] = batch["labels"].clamp(max=0)
    for task in TASKS[:2]:
        expected = model(**batch, task=task)
        torch.testing.assert_close(compiled(**batch, task=task).logits, expected.logits)


def test_copies_are_independent_and_work():
    model = make_model()
    twin = copy.deepcopy(model)
    batch = make_batch()
    before = model(**batch, task="a").logits
    tiny.randomise(twin)
    assert torch.equal(model(**batch, task="a").logits, before)
    assert not torch.equal(twin(**batch, task="a").logits, before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": "d"}, ValueError, "task must be one of a, b c, ü.weight, got 'd'"),
        ({}, ValueError, "task or task_ids must be given, got neither"),
        ({"task": "a", "task_ids": TASK_IDS}, ValueError, "task or task_ids must be given, got both"),
        ({"task_ids": torch.tensor([0, 1, 2, 3, 0])}, IndexError, "task_ids must be from 0 to 2, got 3"),
        ({"task_ids": torch.tensor([0, 1, -1, 2, 0])}, IndexError, "task_ids must be from 0 to 2, got -1"),
        (
            {"task_ids": torch.zeros(5)},
            TypeError,
            "task_ids must be an int64 tensor of shape .batch,., got torch.float32",
        ),
        ({"task_ids": [0, 1]}, TypeError, "task_ids must be an int64 tensor"),
        ({"task_ids": torch.tensor([0, 1])}, ValueError, "task_ids must have one entry per sentence"),
        ({"task_ids": torch.zeros(3, dtype=torch.int64)}, ValueError, "task_ids must have one entry per sentence"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["t5", "bert"])
def test_rejects(name, arguments, error, message):
    with pytest.raises(error, match=message):
        make_model(name)(**make_batch(name), **arguments)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(5, 6, dtype=torch.int64), r"labels must have shape \(5, 7\), got \(5, 6\)"),
        (torch.full((5, 7), 4), "labels must be below the number of the task's labels"),
    ],
)
def test_rejects_labels_that_do_not_fit(labels, message):
    batch = make_batch("bert") | {"labels": labels}
    with pytest.raises((ValueError, IndexError), match=message):
        make_model("bert")(**batch, task_ids=TASK_IDS)


def test_unsupported_backbone_lists_what_is_supported():
    backbone = GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=20))
    with pytest.raises(ValueError, match="model types bert, distilbert, .* got GPT2LMHeadModel.*to add one"):
        HyperLoaderModel(backbone, HyperLoaderConfig(tasks=["a"]))


def test_backbone_that_is_attached_already():
    model = make_model()
    with pytest.raises(ValueError, match="attached already: call detach"):
        HyperLoaderModel(model.backbone, model.hyperloader_config)


def test_calling_the_attached_backbone_directly_says_what_to_do():
    model = make_model()
    with pytest.raises(RuntimeError, match="call that model, which generates the weights"):
        model.backbone(**make_batch())


def test_labels_need_an_encoder():
    with pytest.raises(ValueError, match="labels must be None for T5ForConditionalGeneration"):
        HyperLoaderModel(tiny.make("t5"), HyperLoaderConfig(tasks=TASKS, labels=LABELS, reduction_factor=4))


def test_a_failed_construction_leaves_the_backbone_as_it_was():
    backbone = tiny.make("t5")
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    with pytest.raises(ValueError, match="labels must be None"):
        HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, labels=LABELS, reduction_factor=4))
    assert list(backbone.state_dict()) == list(before)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, reduction_factor=4))


def train_plainly(model, folder, **options):
    rows = [
        {key: tensor[i] for key, tensor in make_batch("bert").items()} | {"task_ids": TASK_IDS[i]} for i in range(4)
    ]
    arguments = TrainingArguments(
        folder,
        max_steps=1,
        lr_scheduler_type="constant",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    return trainer, rows


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trains_and_predicts_with_a_plain_trainer(tmp_path, checkpointing):
    model = make_model("bert", torch.float32)
    before = model.task_embedding.weight.detach().clone()
    options = {"per_device_train_batch_size": 4, "learning_rate": 0.1, "gradient_checkpointing": checkpointing}
    trainer, rows = train_plainly(model, tmp_path, **options)
    assert not torch.equal(model.task_embedding.weight, before)
    trainer.args.per_device_eval_batch_size = 1  # batches of one task each
    assert trainer.predict(rows).predictions.shape == (4, 7, max(map(len, LABELS.values())))


def test_accumulated_batches_of_a_plain_trainer_are_one_batch(tmp_path):
    moved = []
    for size, accumulation in ((4, 1), (1, 4)):
        model = make_model("bert", torch.float32)
        before = model.task_embedding.weight.detach().clone()
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        train_plainly(model, tmp_path, **options, optim="sgd", learning_rate=0.1, max_grad_norm=0)
        moved.append(model.task_embedding.weight.detach() - before)
    torch.testing.assert_close(*moved, rtol=1e-4, atol=1e-7)


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


def test_mode_follows_the_backbone():
    for training in (False, True):
        model = HyperLoaderModel(tiny.make("bert").train(training), HyperLoaderConfig(tasks=TASKS, reduction_factor=4))
        assert model.training is training
        assert model.generators.training is training


def test_checkpointed_graph_can_be_used_twice():
    model = make_model("bert").train()
    model.gradient_checkpointing_enable()
    loss = model(**make_batch("bert"), task_ids=TASK_IDS).loss
    first, second = (torch.autograd.grad(loss, model.task_embedding.weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_task_ids_are_held_against_whatever_holds_the_sentences():
    model = make_model()
    encoder_outputs = model.backbone.encoder.get_input_embeddings()(make_batch()["input_ids"])
    for name in ("inputs_embeds", "encoder_outputs"):
        given = encoder_outputs if name == "inputs_embeds" else (encoder_outputs,)
        with pytest.raises(ValueError, match="task_ids must have one entry per sentence, got 2 for 5 sentences"):
            model.generate(**{name: given}, task_ids=torch.tensor([0, 1]), max_new_tokens=2)


@pytest.mark.parametrize("kind", ["subclass", "hook"])
def test_layers_that_do_more_than_a_linear_are_refused(kind):
    backbone = tiny.make("bert")
    query = backbone.encoder.layer[1].attention.self.query
    if kind == "subclass":
        query.__class__ = type("Quantised", (torch.nn.Linear,), {})
    else:
        query.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="must have a plain nn.Linear at encoder.layer.1.attention.self.query"):
        HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, reduction_factor=4))


def test_any_failure_gives_the_backbone_back(monkeypatch):
    backbone = tiny.make("t5")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(HyperLoaderModel, "_build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, reduction_factor=4))
    monkeypatch.undo()
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, reduction_factor=4))


def test_a_detached_model_says_so(tmp_path):
    model = make_model()
    model.detach()
    for call in (
        lambda: model(**make_batch(), task="a"),
        lambda: model.generate(input_ids=make_batch()["input_ids"], task="a"),
        lambda: model.save_pretrained(tmp_path),
        model.detach,
    ):
        with pytest.raises(RuntimeError, match=r"no backbone since detach\(\)"):
            call()
