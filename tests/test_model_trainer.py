"""HyperLoaderModel under transformers' Trainer as it is."""

import pytest
import torch
from tiny import LABELS, TASK_IDS, make_batch, make_model
from transformers import Trainer, TrainingArguments


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
