"""Models of tasks in words: what is embedded, mixed batches, new tasks, the bank, saving, merging."""

import copy

import pytest
import torch
from helpers import tiny, words
from helpers.families import FAMILIES, make
from helpers.new_task import each_name, labels_for
from helpers.tiny import TASK_IDS, TASKS, make_batch

from hyperloader import HyperLoaderConfig, HyperLoaderModel, TaskModel
from hyperloader.model.text_encoder import embedded

NEW = {"description": "find some y", "label_words": {"w": "a person"}}


def add(model, name):
    return model.add_task("new", labels=labels_for(name), **NEW)


@each_name
def test_what_is_embedded(name):
    """Every phrasing with the mean of its task's labels; of heads every label in its place."""
    plain = tiny.make(name, torch.float64)
    model = words.make_model(name, randomised=False)
    if name == "bert":
        labels = {"a": ["a great place"], "b c": [], "ü.weight": ["some person", "z"]}
        rows = ["no label: any other word", "a great place: first word", "a great place: later word"]
        rows += ["no label: any other word"] * 2
        rows += [f"{one}: {place} word" for one in ("some person", "z") for place in ("first", "later")]
        expected = torch.stack([words.pooled(plain, text) for text in rows])
        torch.testing.assert_close(model.heads.texts, expected, rtol=0, atol=1e-6)
    else:
        labels = {"a": ["some person"], "b c": [], "ü.weight": []}
    expected = []
    for task, phrasings in words.DESCRIPTIONS.items():
        for text in [phrasings] if isinstance(phrasings, str) else phrasings:
            found = words.pooled(plain, text)
            if labels[task]:
                found = (found + torch.stack([words.pooled(plain, one) for one in labels[task]]).mean(0)) / 2
            expected.append(found)
    torch.testing.assert_close(model.task_embedding.texts, torch.stack(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["bart", "deberta-v3", "gpt2", "llama", "modernbert"])
def test_backbones_that_embed(name):
    """The mean of the states that they return, whatever stands beside a text in its batch."""
    backbone, tokenizer = make(name).double(), words.tokenizer()
    texts = ["find x", "a great place", "y"]
    found = embedded(backbone, tokenizer, texts)
    assert found.shape == (3, 16) and found.dtype == torch.float64
    encoder = backbone.get_encoder() if backbone.config.is_encoder_decoder else backbone.base_model
    for text, one in zip(texts, found, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            torch.testing.assert_close(one, encoder(input_ids=ids).last_hidden_state[0].mean(0))
    assert name in FAMILIES


@each_name
def test_the_text_encoder_is_the_backbone_of_before(name):
    """Whatever has been trained, cast or put into training mode since, and nothing of that changes."""
    model = words.make_model(name, torch.float32, randomised=False)
    first = model.text_embeddings(["find every x", "mark"])
    tiny.randomise(model)
    model.train()
    state = {path: value.clone() for path, value in model.state_dict().items()}
    assert torch.equal(model.text_embeddings(["find every x", "mark"]), first)
    assert all(torch.equal(value, state[path]) for path, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert model(**make_batch(name), task_ids=TASK_IDS).loss.isfinite()


@each_name
def test_a_mixed_batch_is_its_sentences_one_by_one(name):
    model = words.make_model(name)
    mixed = tiny.logits(model, name, task_ids=TASK_IDS)
    batch = make_batch(name)
    for number, task in enumerate(TASK_IDS.tolist()):
        one = {key: value[number : number + 1] for key, value in batch.items()}
        if name == "bert":
            one["labels"] = None
        with torch.no_grad():
            alone = model(**one, task=TASKS[task]).logits[0]
        torch.testing.assert_close(mixed[number, ..., : alone.shape[-1]], alone, rtol=0, atol=1e-10)


@torch.no_grad()
def hidden(model, name):
    """The last hidden states of ``make_batch``: before any head."""
    outputs = model.eval()(**make_batch(name), task_ids=TASK_IDS, output_hidden_states=True)
    return (outputs.hidden_states if name == "bert" else outputs.decoder_hidden_states)[-1]


@each_name
def test_a_new_task_is_its_words(name):
    model = words.make_model(name)
    before, states = tiny.logits(model, name, task_ids=TASK_IDS), hidden(model, name)
    plain, held = tiny.make(name, torch.float64), model.task_embedding
    assert add(model, name) == 3
    text = words.pooled(plain, "find some y")
    if name == "bert":
        text = (text + words.pooled(plain, "a person")) / 2
        rows = ["no label: any other word", "a person: first word"]
        rows = words.mapped(model.heads, torch.stack([words.pooled(plain, one) for one in rows]))
        for found, expected in zip(model.heads.rows_of(3), (rows[:, :-1], rows[:, -1]), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    else:
        text = (text + words.pooled(plain, "a person")) / 2
    torch.testing.assert_close(held(torch.tensor([3]))[0], words.mapped(held, text), rtol=0, atol=1e-6)
    columns = before.shape[-1]
    assert torch.equal(hidden(model, name), states)
    # a library's product with more columns may sum in another order
    torch.testing.assert_close(tiny.logits(model, name, task_ids=TASK_IDS)[..., :columns], before, rtol=0, atol=1e-12)


def test_few_shot_training_begins_at_the_words():
    """Row and head alone are trained, nothing is dropped, and the other tasks keep every bit."""
    model = words.make_model(dtype=torch.float32)
    add(model, "bert")
    before = [tiny.logits(model, "bert", task=task) for task in TASKS]
    model.freeze_except_task_embedding("new")
    assert model.trainable_parameters() == 64 + 2 * 16 + 2
    batch = make_batch("bert") | {"labels": make_batch("bert")["labels"] % 2}
    start = model(**batch, task="new").loss
    assert torch.equal(model.train()(**batch, task="new").loss, start), "the words are frozen: nothing is drawn"
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch, task="new").loss.backward()
        optimizer.step()
    assert model.eval()(**batch, task="new").loss < start
    assert all(torch.equal(tiny.logits(model, "bert", task=task), one) for task, one in zip(TASKS, before, strict=True))
    model.unfreeze()
    assert model.task_embedding.words.weight.requires_grad and model.heads.words.weight.requires_grad


@each_name
def test_gradients_reach_both_maps(name):
    model = words.make_model(name, row_dropout=0.999).train()
    torch.manual_seed(0)
    model(**make_batch(name), task_ids=TASK_IDS).loss.backward()
    trained = {path: one for path, one in model.named_parameters() if one.requires_grad}
    assert all(one.grad is not None for one in trained.values()), "every one takes part"
    maps = [one.grad.norm() for path, one in trained.items() if path.endswith("words.weight")]
    assert len(maps) == (2 if name == "bert" else 1) and min(maps) > 0
    assert not model.task_embedding.weight.grad.any()


def test_the_bank_sees_texts_change():
    model = words.make_model(dtype=torch.float32)
    before = tiny.logits(model, "bert", task_ids=TASK_IDS)
    assert torch.equal(tiny.logits(model, "bert", task_ids=TASK_IDS), before)
    assert model.bank.statistics()["generated"] == 3
    with torch.no_grad():
        model.task_embedding.texts[3] += 1  # of the second task, after three phrasings of the first
    after = tiny.logits(model, "bert", task_ids=TASK_IDS)
    changed = [number for number in range(5) if not torch.equal(before[number], after[number])]
    assert changed == [2] and model.bank.statistics()["generated"] == 4
    with torch.no_grad():
        model.task_embedding.words.weight.zero_()
    assert not torch.equal(tiny.logits(model, "bert", task_ids=TASK_IDS), after)


@each_name
def test_saved_and_loaded(name, tmp_path):
    """To the bit and without a tokenizer, which a task that is added later needs."""
    model = words.make_model(name, torch.float32)
    add(model, name)
    model.save_pretrained(tmp_path)
    loaded = HyperLoaderModel.from_pretrained(tmp_path, tiny.make(name))
    assert loaded.hyperloader_config == model.hyperloader_config
    for task in (*TASKS, "new"):
        assert torch.equal(tiny.logits(loaded, name, task=task), tiny.logits(model, name, task=task))
    arguments = {"description": "x", "labels": labels_for(name)}
    with pytest.raises(ValueError, match=r"tokenizer must be given .*\(the backbone has no name\)"):
        loaded.add_task("more", **arguments)
    assert loaded.hyperloader_config.tasks == (*TASKS, "new")
    loaded.tokenizer = words.tokenizer()
    loaded.add_task("more", **arguments)
    model.add_task("more", **arguments)
    assert torch.equal(tiny.logits(loaded, name, task="more"), tiny.logits(model, name, task="more"))


@each_name
def test_copied_and_loaded_in_double_precision(name, tmp_path):
    model = words.make_model(name)
    assert torch.equal(tiny.logits(copy.deepcopy(model), name, task="a"), tiny.logits(model, name, task="a"))
    with torch.no_grad():
        model.task_embedding.texts += 1e-12
    model.save_pretrained(tmp_path)
    loaded = HyperLoaderModel.from_pretrained(tmp_path, tiny.make(name, torch.float64))
    assert torch.equal(loaded.task_embedding.texts, model.task_embedding.texts)
    assert torch.equal(tiny.logits(loaded, name, task_ids=TASK_IDS), tiny.logits(model, name, task_ids=TASK_IDS))


@each_name
def test_merged_and_exported(name, tmp_path):
    model = words.make_model(name)
    for task in TASKS:
        expected = tiny.logits(model, name, task=task)
        torch.testing.assert_close(tiny.logits(model.merge(task), name), expected, rtol=0, atol=1e-12)
    model.merge("a").save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(tiny.logits(TaskModel.from_pretrained(tmp_path / "merged"), name, task="a"),
                               tiny.logits(model, name, task="a"), rtol=0, atol=1e-12)  # fmt: skip
    model.export_task("a", tmp_path / "task")
    alone = HyperLoaderModel.from_pretrained(tmp_path / "task", tiny.make(name, torch.float64))
    assert alone.hyperloader_config.descriptions is None
    torch.testing.assert_close(tiny.logits(alone, name, task="a"), tiny.logits(model, name, task="a"))


def test_half_precision_keeps_texts_in_float32():
    model = words.make_model(dtype=torch.float32)
    texts = model.task_embedding.texts.clone()
    model.to(torch.bfloat16)
    assert torch.equal(model.task_embedding.texts, texts) and torch.equal(model.heads.texts, model.heads.texts.float())
    assert model(**make_batch("bert"), task_ids=TASK_IDS).loss.isfinite()


@pytest.mark.slow
def test_a_compiled_model_computes_the_same():
    model = words.make_model(dtype=torch.float32)
    expected = tiny.logits(model, "bert", task_ids=TASK_IDS)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(tiny.logits(compiled, "bert", task_ids=TASK_IDS), expected)
    batch = make_batch("bert")
    compiled.train()(**batch, task_ids=TASK_IDS).loss.backward()
    assert model.task_embedding.words.weight.grad.any()


def test_what_an_earlier_version_wrote_has_no_words():
    values = tiny.config_for("bert").to_dict()
    for name in ("task_condition", "descriptions", "label_words", "text_encoder", "row_dropout"):
        del values[name]
    assert HyperLoaderConfig.from_dict(values) == tiny.config_for("bert")
    assert HyperLoaderConfig.from_dict(tiny.config_for("bert", **words.options()).to_dict()).descriptions["a"] == tuple(
        words.DESCRIPTIONS["a"]
    )


def test_states_of_models_without_words_have_the_names_of_before():
    names = set(tiny.make_model("bert").trainable_state())
    assert {name for name in names if name.startswith(("task_embedding", "heads"))} == {
        "task_embedding.weight", *(f"heads.heads.{task}.{part}" for task in range(3) for part in ("weight", "bias"))
    }  # fmt: skip
