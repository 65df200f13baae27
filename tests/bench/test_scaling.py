"""python -m bench.scaling: its formulas are those of real models."""

from dataclasses import replace

import pytest
import torch
from helpers import tiny
from transformers import T5Config, T5ForConditionalGeneration

from bench import scaling
from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.optim import RowAdamW

SIZES = {"d_model": 16, "d_kv": 3, "num_heads": 4, "d_ff": 40, "num_layers": 2, "vocab_size": 50, "dropout_rate": 0.0}
T5 = scaling.T5(layers=2, hidden=16, attention=12, feed_forward=40, vocabulary=50, heads=4)


@pytest.mark.parametrize("base_weights", [False, True])
@pytest.mark.parametrize(("norm", "tasks", "rank"), [("post", 3, 2), ("none", 7, 5), ("both", 3, 2)])
def test_counted(base_weights, norm, tasks, rank):
    backbone = T5ForConditionalGeneration(T5Config(**SIZES, decoder_start_token_id=0))
    assert sum(one.numel() for one in backbone.parameters()) == T5.parameters
    options = {"norm": norm, "rank": rank, "reduction_factor": 4, "base_weights": base_weights}
    config = HyperLoaderConfig(tasks=[f"t{number}" for number in range(tasks)], sparse_gradients=True, **options)
    model = HyperLoaderModel(backbone, config)
    scale = scaling.Scale(T5, config, tasks, tasks_of_batch=3)
    assert model.trainable_parameters() == scale.trained
    weights = model.eval().weights_of("t0")
    assert sum(tensor.numel() for site in weights.values() for tensor in site) == scale.generated

    trained = [one for one in model.train().parameters() if one.requires_grad]
    optimizer = RowAdamW(trained)
    ids = torch.randint(0, 50, (6, 4))
    model(ids, labels=ids, task_ids=torch.tensor([0, 2, 1, 0, 2, 1])).loss.backward()
    grads = [one.grad for one in trained if one.grad is not None]
    found = sum(one.coalesce().values().nbytes + one.coalesce().indices().nbytes if one.is_sparse else one.nbytes
                for one in grads)  # fmt: skip
    assert len(grads) == len(trained) and found == scale.gradient_bytes
    optimizer.step()
    moments = sum(state[key].nbytes for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq"))
    assert moments == scale.optimizer_bytes


def test_heads_are_counted():
    config = HyperLoaderConfig(tasks=["a", "b"], labels={"a": ["O", "B-x"], "b": ["O", "B-y"]}, sparse_gradients=True)
    model = HyperLoaderModel(tiny.make("bert"), replace(config, reduction_factor=4))
    own = [model.task_embedding, model.heads]
    scale = scaling.Scale(T5, config, 2, labels=2, tasks_of_batch=2)
    assert sum(one.numel() for part in own for one in part.parameters()) == 2 * scale.of_a_task


def test_what_is_sent_and_what_grows():
    config = HyperLoaderConfig(tasks=["any"], reduction_factor=4)
    scale = scaling.Scale(T5, config, 100, labels=3, tasks_of_batch=5, processes=1)
    assert scale.network_bytes == 0
    two = replace(scale, processes=2)
    rows = 4 * 5 * scale.of_a_task + 8 * 5 * (1 + 2 * 3)
    assert two.network_bytes == 4 * scale.shared + rows
    more = replace(two, tasks=10_000)
    assert (more.network_bytes, more.operations, more.generated_bytes) == (
        two.network_bytes, two.operations, two.generated_bytes)  # fmt: skip
    dense = [replace(one, sparse=False).network_bytes for one in (two, more)]
    assert dense[1] - dense[0] == 4 * 9_900 * scale.of_a_task


def test_the_plan_stands_in_its_document(tmp_path, capsys):
    assert scaling.T5_3B.parameters == 2_851_598_336
    page = tmp_path / "page.md"
    page.write_text("<!-- plan: begin --><!-- plan: end -->")
    scaling.main(["--document", str(page)])
    assert capsys.readouterr().out.strip() in page.read_text()
    assert scaling.render() in scaling.DOCUMENT.read_text(encoding="utf-8")
