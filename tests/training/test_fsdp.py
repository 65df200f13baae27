"""A run under FSDP2, as `accelerate launch` starts it with examples/fsdp.yaml."""

import json
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.utils import FullyShardedDataParallelPlugin
from helpers import small_run, text_run, tiny
from helpers.launched import ROOT, cut, run

from hyperloader.training.dry_run import dry_run
from hyperloader.training.fsdp import fsdp_training, shard
from hyperloader.training.requirements import check_model, check_requirements
from hyperloader.training.saved_run import load_run

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this build has no torch.distributed")


def sharded(folder, *words, processes=2):
    """`hyperloader WORDS...` under FSDP; returns what each process has had of the model in every step."""
    watched = folder / "watched"
    for number in range(processes):
        (folder / f"watched.{number}").unlink(missing_ok=True)
    launch = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "examples" / "fsdp.yaml"]
    helper = ROOT / "tests" / "helpers" / "fsdp_run.py"
    program = ["env", f"WATCHED={watched}", sys.executable, *launch, "--num_processes", processes, helper]
    _, errors = run(processes, *words, program=program)
    assert "returned a view tensor" not in errors
    files = [(folder / f"watched.{number}").read_text().splitlines() for number in range(processes)]
    return [[json.loads(line) for line in lines] for lines in files]


def check_sharded(watched, steps, layers):
    """Assert that in all of ``steps`` every process had its part alone of every parameter, and all parts were had."""
    for each in zip(*watched, strict=True):
        assert all(one["whole"] == [] for one in each)
        assert all(layers <= set(one["gathered_apart"]) for one in each)
        numbers = each[0]["numbers"]
        assert sum(one["numbers_here"] for one in each) == numbers
        assert all(one["numbers_here"] < 1.2 * numbers / len(each) for one in each)
    assert len(watched[0]) == steps


def write(folder, values, backbone, **without_dropout):
    """A file of a run without dropout, 6 steps, 8 sentences a step on 2 processes."""
    sizes = folder / backbone / "config.json"
    sizes.write_text(json.dumps(json.loads(sizes.read_text()) | without_dropout))
    options = {"steps": 6, "eval_steps": 3, "save_steps": 2, "batch_size": 4, "keep_checkpoints": 5}
    values["training"] |= options
    (folder / "run.yaml").write_text(yaml.safe_dump(values | {"output": "run"}))
    return folder / "run.yaml"


@pytest.fixture(scope="module")
def tagging(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagging")
    return write(folder, small_run.write(folder), "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def metrics(output):
    return json.loads((output / "metrics.json").read_text())


def check_same(output, expected, rtol=1e-3, atol=1e-5):
    found, expected = (load_run(one).model for one in (output, expected))
    states = [{k: v for k, v in one.named_parameters() if v.requires_grad} for one in (found, expected)]
    torch.testing.assert_close(*states, rtol=rtol, atol=atol)


def scores(output):
    """Of the test sets, with four digits."""
    text = (output / "metrics.json").read_text()
    return json.loads(text, parse_float=lambda one: float(f"{float(one):.4g}"))["test"]


def evaluated(output):
    """The table of scores that an ordinary process makes."""
    title, _, table = run(0, "evaluate", output)[0].partition("\n")
    assert str(output) in title and "mean" in table
    return table


def losses(output):
    return [one["train_loss"] for one in metrics(output)["learning_curve"]]


@pytest.mark.slow
def test_an_encoder(tagging):
    folder = tagging.parent
    one, several = folder / "one", folder / "several"
    run(0, "train", tagging, "--output", one, "--set", "training.batch_size=8")
    train = ("train", tagging, "--output", several)
    check_sharded(sharded(folder, *train), 6, {"BertLayer", "Embedding", "HyperLoaderModel"})
    check_same(several, one)
    assert losses(several) == pytest.approx(losses(one), rel=1e-5)
    assert scores(several) == scores(one)
    assert metrics(several)["parameters"] == metrics(one)["parameters"]
    assert evaluated(small_run.with_random_heads(several)) == evaluated(small_run.with_random_heads(one))


@pytest.mark.slow
def test_an_encoder_resumed(tagging):
    """On the same and another number of processes, and without FSDP; by FSDP what began without."""
    folder, output = tagging.parent, tagging.parent / "resumed"
    train = ("train", tagging, "--output", output, "--set", "training.eval_steps=6")
    sharded(folder, *train)
    through = {name: one.clone() for name, one in load_run(output).model.trainable_state().items()}

    def check(**bounds):
        torch.testing.assert_close(load_run(output).model.trainable_state(), through, **bounds)

    cut(output, 4)
    check_sharded(sharded(folder, *train, "--resume"), 2, {"BertLayer"})
    check(rtol=0, atol=0)
    near = {"rtol": 1e-3, "atol": 1e-5}
    cut(output, 2)
    run(0, *train, "--resume", "--set", "training.batch_size=8")
    check(**near)
    cut(output, 4)
    four = ("--resume", "--set", "training.batch_size=2")
    check_sharded(sharded(folder, *train, *four, processes=4), 2, {"BertLayer"})
    check(**near)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer"), [("t5", "T5Block"), ("llama", "LlamaDecoderLayer")])
def test_models_that_write_texts(name, layer, tmp_path):
    """Beside data parallel processes, as the loss of texts is one of each process's batch."""
    writing = write(tmp_path, text_run.write(tmp_path, name), name, dropout_rate=0.0)
    folder, together, output = tmp_path, tmp_path / "together", tmp_path / "several"
    run(2, "train", writing, "--output", together)
    check_sharded(sharded(folder, "train", writing, "--output", output), 6, {layer, "HyperLoaderModel"})
    check_same(output, together)
    assert losses(output) == pytest.approx(losses(together), rel=1e-5)
    assert scores(output) == scores(together)
    assert evaluated(output) == evaluated(together)
    cut(output, 2)
    run(2, "train", writing, "--output", output, "--resume")
    check_same(output, together)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "bounds"),
    [
        (["method=lora", "model={}", "training.gradient_accumulation=2"], {}),
        (["method=full", "model={}", "training.gradient_checkpointing=true"], {}),
        (["training.bf16=true"], {"atol": 1e-3}),
        (["backbone_dtype=bfloat16", "training.gradient_checkpointing=true"], {"atol": 1e-2}),
    ],
)
def test_other_options(tagging, options, bounds, tmp_path):
    words = ["train", tagging, *(word for one in options for word in ("--set", one))]
    run(0, *words, "--output", tmp_path / "one", "--set", "training.batch_size=8")
    watched = sharded(tmp_path, *words, "--output", tmp_path / "several")
    check_sharded(watched, 6 * (1 + ("training.gradient_accumulation=2" in options)), {"BertLayer"})
    check_same(tmp_path / "several", tmp_path / "one", **bounds)
    assert losses(tmp_path / "several")[0] == pytest.approx(losses(tmp_path / "one")[0], rel=3e-5)  # bf16 is 5e-5 off


@pytest.fixture
def asked(monkeypatch):
    """This process as one of two that are to shard a model."""
    names = {"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2", "FSDP_VERSION": "2"}
    for name, value in (names | {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}).items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FSDP_VERSION", "1", "fsdp_version must be 2 in accelerate's config file, got 1: FSDP1"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "fsdp_auto_wrap_policy must be TRANSFORMER_BASED_WRAP or NO_WRAP"),
        (
            "FSDP_ACTIVATION_CHECKPOINTING",
            "true",
            "fsdp_activation_checkpointing must be false .*gradient_checkpointing",
        ),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params must be false"),
    ],
)
def test_settings_that_are_refused(asked, settings, name, value, message):
    config = settings()
    check_requirements(config)
    asked.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{message}"):
        check_requirements(config)
    if not torch.accelerator.is_available():  # nothing would be sharded
        asked.setenv("WORLD_SIZE", "1")
        check_requirements(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone_quantization": "torchao-int8"},
            "backbone_quantization must be left out with FSDP, got torchao-int8",
        ),
        ({"training": {"compile": True}}, "training.compile must be false with FSDP, got true"),
        ({"training": {"recompute_norms": True}}, "training.recompute_norms must be false with FSDP, got true"),
        ({"model": {"sparse_gradients": True}}, "model.sparse_gradients must be false with FSDP, got true; torchrun"),
    ],
)
def test_runs_that_are_refused(asked, settings, changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        check_requirements(settings(**changes))


@pytest.mark.parametrize("named", ["BertEmbeddings", "T5Block", "Linear", "BertLayer,Nothing"])
def test_wrong_layers_are_refused(asked, settings, named):
    config = settings(method="lora")
    check_model(config)
    asked.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", named)
    line = (
        rf"fsdp_transformer_layer_cls_to_wrap must name layers of BertModel \(BertLayer\), got {named.split(',')[-1]}$"
    )
    with pytest.raises(ValueError, match=line):
        check_model(config)
    asked.setenv("FSDP_AUTO_WRAP_POLICY", "NO_WRAP")
    check_model(config)


def test_layers_without_a_name_must_be_given(asked, settings, monkeypatch):
    from transformers import BertModel

    monkeypatch.setattr(BertModel, "_no_split_modules", None)
    line = (
        "fsdp_transformer_layer_cls_to_wrap must be given in accelerate's config file, got nothing: .* BertModel have$"
    )
    with pytest.raises(ValueError, match=line):
        check_model(settings())
    asked.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "BertLayer")
    check_model(settings())


def test_a_dry_run_is_refused(asked, settings):
    with pytest.raises(ValueError, match="^a dry run must not be sharded, got FSDP: start it with torchrun, or alone$"):
        dry_run(settings(), 2)


@pytest.mark.parametrize(("name", "apart"), [("bert", {"BertLayer", "Embedding"}), ("t5", {"T5Block"})])
def test_what_is_gathered_apart(asked, name, apart):
    """The layers, and input embeddings that nothing shares."""
    dist = pytest.importorskip("torch.distributed")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = tiny.make_model(name, torch.float32).train()
        expected = model(**tiny.make_batch(name), task_ids=tiny.TASK_IDS).loss.detach()
        filters = list(warnings.filters)
        shard(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=FullyShardedDataParallelPlugin())), model)
        assert warnings.filters == filters  # those of whoever called it
        assert torch.equal(model(**tiny.make_batch(name), task_ids=tiny.TASK_IDS).loss, expected)
        kinds = {type(one).__name__ for one in model.modules() if type(one).__name__.startswith("FSDP")}
        assert kinds == {f"FSDP{one}" for one in apart | {"HyperLoaderModel"}}
    finally:
        dist.destroy_process_group()


def test_views_are_no_news_in_a_training():
    def said():
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            with fsdp_training():
                warnings.warn("FSDP2-wrapped module (BertLayer) returned a view tensor. An in-place op", stacklevel=1)
                warnings.warn("something else", stacklevel=1)
            inside = [str(one.message) for one in found]
            warnings.warn("a module returned a view tensor", stacklevel=1)
        return inside, len(found)

    assert said() == (["something else"], 2)
