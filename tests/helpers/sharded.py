"""A model that FSDP2 has sharded, beside one that is whole: what several processes, or one, run as a script."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from helpers.tiny import TASK_IDS, TASKS, logits, make_batch, make_model
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from hyperloader import HyperLoaderModel, TaskModel


def layers(model):
    backbone = model.backbone
    return list(backbone.encoder.layer if hasattr(backbone.encoder, "layer") else backbone.encoder.block)


def sharded(name):
    model = make_model(name, torch.float32)
    for layer in layers(model):
        fully_shard(layer)
    return fully_shard(model)


def batch_of(name, number):
    """The batch of process ``number``: a mixed one, or one of a single task."""
    batch = make_batch(name)
    batch["labels"] = torch.zeros_like(batch["labels"])
    return {**batch, "task_ids": TASK_IDS if number % 2 == 0 else torch.zeros_like(TASK_IDS)}


def train(model, name, numbers, steps=2):
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (sum(model(**batch_of(name, number)).loss for number in numbers) / len(numbers)).backward()
        optimizer.step()
    return model.eval()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def check(name, folder):
    """Train both, and compare all that is gathered."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    parts, whole = sharded(name).train(), make_model(name, torch.float32).train()
    train(parts, name, [rank])
    train(whole, name, range(processes))
    main = {"is_main_process": rank == 0}
    state = {key: value.full_tensor() for key, value in parts.trainable_state().items()}
    close(state, whole.trainable_state())
    whole.load_trainable_state(state)  # from here on the same to the bit
    for task in TASKS:
        for site, tensors in whole.weights_of(task).items():
            assert all(map(torch.equal, parts.weights_of(task)[site], tensors)), site
    merged = parts.merge("a")
    assert not any(hasattr(one, "full_tensor") for one in merged.parameters())
    assert not any("FSDP" in type(module).__name__ for module in merged.modules())
    assert torch.equal(logits(merged, name), logits(whole.merge("a"), name))
    parts.save_pretrained(folder / "saved", **main)
    parts.export_task("a", folder / "task", **main)
    parts.export_peft("a", folder / "peft", lora_only=True, **main)
    merged.save_pretrained(folder / "merged", **main)
    dist.barrier()
    loaded = HyperLoaderModel.from_pretrained(folder / "saved", make_model(name, torch.float32).detach())
    assert torch.equal(logits(loaded, name, task="a"), logits(whole, name, task="a"))
    assert torch.equal(logits(TaskModel.from_pretrained(folder / "merged"), name), logits(merged, name))
    one = HyperLoaderModel.from_pretrained(folder / "task", make_model(name, torch.float32).detach())
    close(logits(one, name, task="a"), logits(whole, name, task="a"))
    assert (folder / "peft" / "adapter_model.safetensors").is_file()
    close(logits(parts, name, task="a"), logits(whole, name, task="a"))
    before = make_model(name, torch.float32).trainable_state()
    parts.load_trainable_state(before)  # what was generated before is not served any more
    assert all(torch.equal(value.full_tensor(), before[key]) for key, value in parts.trainable_state().items())
    close(logits(parts, name, task="a"), logits(make_model(name, torch.float32), name, task="a"))
    if name == "t5":
        register_fsdp_forward_method(parts, "generate")
        inputs = {"input_ids": make_batch(name)["input_ids"], "task_ids": TASK_IDS, "max_new_tokens": 3}
        assert torch.equal(parts.generate(**inputs), make_model(name, torch.float32).generate(**inputs))
    train(parts.train(), name, [rank], steps=1)  # it goes on


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    check(sys.argv[1], Path(sys.argv[2]))
    dist.destroy_process_group()
