"""HyperLoaderModel under transformers' Trainer as it is."""

import copy
import pickle

import pytest
import torch
from helpers import families
from helpers.tiny import LABELS, TASK_IDS, TASKS, make, make_batch, make_model
from torch.nn import functional
from transformers import PreTrainedModel, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from hyperloader import HyperLoaderModel, TaskModel


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


def test_noise_on_the_embeddings(tmp_path):
    model = make_model("bert", torch.float32)
    train_plainly(model, tmp_path, neftune_noise_alpha=5.0)
    embeddings = model.backbone.get_input_embeddings()
    assert model.get_input_embeddings() is embeddings
    before = embeddings.weight.shape
    with pytest.raises(NotImplementedError, match="must be resized before the backbone is attached"):
        model.resize_token_embeddings(before[0] + 1)
    assert embeddings.weight.shape == before


def rows_of(name, *columns):
    batch = make_batch(name) | {"task_ids": TASK_IDS} | dict(columns)
    return [{key: tensor[i] for key, tensor in batch.items()} for i in range(5)]


def arguments_for(folder, kind=TrainingArguments, **options):
    plain = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "save_strategy": "no"}
    return kind(str(folder), **plain | {"per_device_train_batch_size": 5, "learning_rate": 0.01} | options)


@pytest.mark.parametrize("options", [{}, {"hypernetwork_per_stack": False}], ids=str)
@pytest.mark.parametrize("name", ["t5", "bert"])
def test_checkpoints_are_ours_and_resume(tmp_path, name, options):
    rows, curves = rows_of(name), []
    for resume in (None, str(tmp_path / "checkpoint-2")):
        model = make_model(name, torch.float32, **options)
        trainer = Trainer(
            model,
            arguments_for(tmp_path, max_steps=4, save_strategy="steps", save_steps=2, per_device_train_batch_size=2),
            train_dataset=rows,
        )
        trainer.train(resume_from_checkpoint=resume)
        curves.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        state = {key: tensor.clone() for key, tensor in model.trainable_state().items()}
        stored = HyperLoaderModel.from_pretrained(tmp_path / "checkpoint-4", make(name))
        assert stored.trainable_state().keys() == state.keys()
        assert all(torch.equal(tensor, state[key]) for key, tensor in stored.trainable_state().items())
        curves.append(state)
    assert curves[0] == curves[2]
    assert all(torch.equal(tensor, curves[3][key]) for key, tensor in curves[1].items())
    files = {path.name for path in (tmp_path / "checkpoint-4").iterdir()}
    assert {"model.safetensors", "hyperloader.json"} <= files


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_columns_that_the_backbone_names_are_kept(tmp_path, name):
    datasets = pytest.importorskip("datasets")
    types = torch.ones(5, 7).long()
    rows = datasets.Dataset.from_list(
        [{key: tensor.tolist() for key, tensor in row.items()} for row in rows_of(name, ("token_type_ids", types))]
    )
    rows = rows.add_column("text", ["a sentence"] * 5)
    model = make_model(name, torch.float32)
    trainer = Trainer(model, arguments_for(tmp_path, per_device_eval_batch_size=5))
    found = torch.tensor(trainer.predict(rows).predictions)
    with torch.no_grad():
        more = {"token_type_ids": types} if name == "bert" else {}
        expected = model(**make_batch(name), **more, task_ids=TASK_IDS).logits
        assert name == "distilbert" or not torch.allclose(model(**make_batch(name), task_ids=TASK_IDS).logits, expected)
    torch.testing.assert_close(found, torch.where(expected == -torch.inf, found, expected))


def test_smoothed_labels_are_those_of_the_own_task(tmp_path):
    rows, epsilon, losses = rows_of("bert"), 0.1, []
    model = make_model("bert", torch.float32)
    batch = make_batch("bert")
    total = 0
    for row, task in enumerate(TASK_IDS.tolist()):
        one = {key: tensor[row, None] for key, tensor in batch.items()}
        logits = model(**one, task=TASKS[task]).logits[0]
        total += functional.cross_entropy(logits, one["labels"][0], label_smoothing=epsilon, reduction="sum")
    expected = total / batch["labels"].numel()
    gradients = torch.autograd.grad(expected, model.task_embedding.weight)
    trainer = Trainer(model, arguments_for(tmp_path, label_smoothing_factor=epsilon, max_steps=1), train_dataset=rows)
    loss = trainer.compute_loss(model, batch | {"task_ids": TASK_IDS})
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, model.task_embedding.weight), gradients)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == pytest.approx([expected.item()], rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_smoothed_labels_of_a_causal_model_are_those_of_the_next_token(tmp_path, name):
    model, epsilon = families.model_for(name, torch.float32), 0.1
    assert repr(model).startswith("HyperLoaderModel(") and repr(model.merge("a")).startswith("TaskModel(")
    batch = families.batch_for(model.backbone) | {"task_ids": families.TASK_IDS}
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    logits, labels = model(**batch).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    expected = functional.cross_entropy(logits, labels, label_smoothing=epsilon)
    rows = [{key: tensor[i] for key, tensor in batch.items()} for i in range(4)]
    options = {"label_smoothing_factor": epsilon, "max_steps": 1, "per_device_train_batch_size": 4}
    trainer = Trainer(model, arguments_for(tmp_path, **options), train_dataset=rows)
    torch.testing.assert_close(trainer.compute_loss(model, dict(batch)), expected)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_generates_while_it_evaluates(tmp_path):
    model = make_model("t5", torch.float32)
    options = {"predict_with_generate": True, "generation_max_length": 6, "per_device_eval_batch_size": 5}
    trainer = Seq2SeqTrainer(model, arguments_for(tmp_path, Seq2SeqTrainingArguments, **options))
    found = torch.tensor(trainer.predict(rows_of("t5")).predictions)
    batch = make_batch()
    expected = model.generate(
        batch["input_ids"], attention_mask=batch["attention_mask"], task_ids=TASK_IDS, max_length=6
    )
    assert torch.equal(found[:, : expected.shape[1]], expected)
    assert model.generation_config is model.backbone.generation_config


def test_is_a_model_of_transformers_and_of_ours():
    model = make_model("bert", torch.float32)
    assert isinstance(model, PreTrainedModel) and isinstance(model, HyperLoaderModel)
    assert type(model).__name__ == "HyperLoaderModel"
    assert not hasattr(model, "generation_config")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model)
        batch = make_batch("bert")
        torch.testing.assert_close(twin(**batch, task_ids=TASK_IDS).logits, model(**batch, task_ids=TASK_IDS).logits)
    assert model.train() is model and model.training and not model.eval().training
    assert model.half().dtype is torch.float16


@pytest.mark.parametrize("name", ["t5", "bert"])
def test_a_task_model_is_trained_saved_and_resumed(tmp_path, name):
    rows, ends = rows_of(name), []
    for row in rows:
        del row["task_ids"]
        row["labels"] = row["labels"].clamp(max=0)
    for resume in (None, str(tmp_path / "checkpoint-1")):
        model = make_model(name, torch.float32).merge("a").requires_grad_(True)
        trainer = Trainer(
            model, arguments_for(tmp_path, max_steps=2, save_strategy="steps", save_steps=1), train_dataset=rows
        )
        trainer.train(resume_from_checkpoint=resume)
        ends.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
    assert all(torch.equal(tensor, ends[1][key]) for key, tensor in ends[0].items())
    stored = TaskModel.from_pretrained(tmp_path / "checkpoint-2")
    assert all(torch.equal(tensor, ends[0][key]) for key, tensor in stored.state_dict().items())


@pytest.mark.slow
@pytest.mark.forks
def test_the_order_of_data_does_not_depend_on_the_number_of_workers(tmp_path):
    ends = []
    for workers in (0, 1, 3):
        model = make_model("bert", torch.float32)
        options = {"max_steps": 6, "per_device_train_batch_size": 2, "dataloader_num_workers": workers}
        Trainer(model, arguments_for(tmp_path, **options), train_dataset=rows_of("bert")).train()
        ends.append(model.trainable_state())
    assert all(torch.equal(tensor, end[name]) for end in ends[1:] for name, tensor in ends[0].items())
