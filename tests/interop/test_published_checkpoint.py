"""load_published_checkpoint: a whole published model, read safely, completely or not at all."""

import json
import pickle
from functools import partial

import pytest
import torch
from interop import published_oracle as oracle
from interop.published_t5 import CONFIG, EXTRA, TASKS, PublishedT5, batch, classes
from interop.test_published import NORMS, norms
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from hyperloader import HyperLoaderModel
from hyperloader.interop.published import load_published_checkpoint

SAME = (
    ("condition.norm.weight", "LayerNorm.weight"),
    ("heads.up_bias.bias", "up_sampler_hyper_net.bias_generator.0.bias"),
    ("heads.down_weight.weight", "down_sampler_hyper_net.weight_generator.0.weight"),
)
HYPERNETWORK = "decoder.adapter_layers_hyper_net."
load = partial(load_published_checkpoint, activation="gelu_new", train_norms=True)


def published(**changes):
    return PublishedT5(classes(oracle), **changes)


def write(folder, state, config=None):
    torch.save(state, folder / "pytorch_model.bin")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def assert_same_model(model, theirs, tasks=TASKS):
    """Logits, gradients and generated tokens of every task."""
    assert model.hyperloader_config.tasks == tuple(tasks)
    assert not model.training
    config = model.hyperloader_config
    for task in tasks:
        found, expected = model(task=task, **batch()), theirs(task, **batch())
        assert torch.allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
        model.zero_grad(), theirs.zero_grad()
        found.loss.backward(), expected.loss.backward()
        index = list(tasks).index(task)
        assert torch.allclose(model.task_embedding.weight.grad[index], theirs.embeddings[str(index)].grad, atol=1e-4)
        ours = dict(model.generators["decoder"].named_parameters())
        for name, other in SAME:
            if name not in ours and not config.condition_norm:
                continue
            grad = theirs.stacks["decoder"].get_parameter(other).grad
            assert torch.allclose(ours[name].grad, grad, rtol=1e-3, atol=1e-5 * grad.abs().max().item())
        options = {"input_ids": batch()["input_ids"], "max_new_tokens": 6, "do_sample": False}
        theirs.task = index
        assert torch.equal(model.generate(task=task, **options), theirs.backbone.generate(**options))


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_whole_model(tmp_path, where):
    theirs = published()
    write(tmp_path, theirs.checkpoint())
    model = load(tmp_path / "pytorch_model.bin" if where == "file" else str(tmp_path))
    config = model.hyperloader_config
    assert (config.rank, config.scaling, config.norm, config.bottleneck_of(16)) == (8, 1, "post", 4)
    assert model.backbone.lm_head.weight is model.backbone.shared.weight
    assert_same_model(model, theirs)


@pytest.mark.parametrize(("before", "after"), NORMS)
def test_norms(tmp_path, before, after):
    theirs = published(**norms(before, after))
    assert_same_model(load(write(tmp_path, theirs.checkpoint())), theirs)


def test_without_a_norm_of_the_condition(tmp_path):
    theirs = published(unique_hyper_net_layer_norm=False)
    model = load(write(tmp_path, theirs.checkpoint()))
    assert not model.hyperloader_config.condition_norm
    assert_same_model(model, theirs)
    model.save_pretrained(tmp_path / "ours")
    again = HyperLoaderModel.from_pretrained(tmp_path / "ours", load(tmp_path).detach())
    assert_same_model(again, theirs)


def test_activation(tmp_path):
    theirs = published(non_linearity="relu")
    assert_same_model(load(write(tmp_path, theirs.checkpoint()), activation="relu"), theirs)


def remove_lora(state):
    """The checkpoint of a HyperFormer++: no LoRA, and two positions."""
    state = {name: tensor for name, tensor in state.items() if ".lora_" not in name}
    for stack in ("encoder", "decoder"):
        name = f"{stack}.adapter_layers_hyper_net.adapters_block_type.weight"
        state[name] = state[name][:2].clone()
    return state


def test_without_lora(tmp_path):
    theirs = published()
    theirs.without_lora = True
    model = load(write(tmp_path, remove_lora(theirs.checkpoint())))
    assert model.hyperloader_config.lora_sites == ()
    assert_same_model(model, theirs)


def test_into_a_given_backbone(tmp_path):
    theirs = published()
    write(tmp_path, theirs.checkpoint())
    backbone = T5ForConditionalGeneration(T5Config(**CONFIG))
    model = load(tmp_path, backbone)
    assert model.backbone is backbone
    assert_same_model(model, theirs)
    detached = model.detach().state_dict()
    assert all(torch.equal(detached[name], tensor) for name, tensor in theirs.checkpoint().items() if name in detached)


def test_sizes_from_a_named_model(tmp_path):
    theirs = published()
    write(tmp_path, theirs.checkpoint())
    T5ForConditionalGeneration(T5Config(**CONFIG)).save_pretrained(tmp_path / "t5")
    model = load(tmp_path, str(tmp_path / "t5"))
    assert_same_model(model, theirs)


GATED = {"feed_forward_proj": "gated-gelu"}


def test_config_beside_the_file(tmp_path):
    theirs = published(t5=GATED | {"layer_norm_epsilon": 1e-3})
    described = {"model_type": "t5", "layer_norm_epsilon": 1e-3, **GATED, "adapter_size": 7, "n_positions": 512}
    assert_same_model(load(write(tmp_path, theirs.checkpoint(), described)), theirs)


def test_what_no_tensor_tells_is_not_guessed(tmp_path):
    with pytest.raises(ValueError, match="its feed-forward is gated, and no tensor tells by which function"):
        load(write(tmp_path, published(t5=GATED).checkpoint()))


def test_what_comes_out_can_be_saved_and_loaded(tmp_path):
    write(tmp_path, published().checkpoint())
    model = load(tmp_path)
    model.save_pretrained(tmp_path / "ours")
    again = HyperLoaderModel.from_pretrained(tmp_path / "ours", load(tmp_path).detach())
    logits = [one(task=TASKS[1], **batch()).logits for one in (model, again)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("dropped", ["encoder.embed_tokens.weight", "lm_head.weight", "shared.weight"])
def test_a_tied_tensor_may_be_written_once(tmp_path, dropped):
    theirs = published()
    state = theirs.checkpoint()
    del state[dropped]
    if dropped == "shared.weight":
        with pytest.raises(ValueError, match="tensors missing: shared.weight$"):
            load(write(tmp_path, state))
    else:
        assert_same_model(load(write(tmp_path, state)), theirs, TASKS)


def shapes_of_t5_base(tasks):
    """Tensors of every name and size of a published t5-base, all of one zero each: a small file."""
    sizes = {"task_embedding_dim": 64, "projected_task_embedding_dim": 64, "task_hidden_dim": 128}
    config = oracle.make_config(**sizes, input_dim=768, reduction_factor=32)
    with torch.device("meta"):
        modules = {"": T5ForConditionalGeneration(T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12))}
        for stack in ("encoder", "decoder"):
            controller = oracle.AdapterLayersOneHyperNetController(config, 12)
            modules[f"{stack}.adapter_layers_hyper_net."] = controller
    states = {prefix: module.state_dict() for prefix, module in modules.items()}
    shapes = {prefix + name: tensor.shape for prefix, state in states.items() for name, tensor in state.items()}
    shapes |= {f"task_embedding_controller.task_to_embeddings.{task}": (64,) for task in tasks}
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(("tasks", "count"), [(7, 6_784_368), (8, 6_784_432)])
def test_trainable_parameters_of_t5_base(tmp_path, tasks, count):
    model = load(write(tmp_path, shapes_of_t5_base([str(task) for task in range(tasks)])))
    assert model.trainable_parameters() == count
    assert model.config.d_kv == 64
    assert model.hyperloader_config.bottleneck_of(768) == 24


def test_trainable_parameters_of_t5_base_without_lora(tmp_path):
    state = remove_lora(shapes_of_t5_base([str(task) for task in range(7)]))
    assert load(write(tmp_path, state)).trainable_parameters() == 5_210_992


class TestRefused:
    """Every bad input is refused with everything that is wrong, and a given backbone stays as it is."""

    @pytest.fixture(autouse=True)
    def _given(self, tmp_path):
        self.folder = tmp_path
        self.state = published().checkpoint()
        self.backbone = T5ForConditionalGeneration(T5Config(**CONFIG))

    def refuse(self, message, backbone=None, error=ValueError):
        backbone = self.backbone if backbone is None else backbone
        before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        flags = [parameter.requires_grad for parameter in backbone.parameters()]
        with pytest.raises(error, match=message):
            load(write(self.folder, self.state), backbone)
        after = backbone.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert flags == [parameter.requires_grad for parameter in backbone.parameters()]

    def test_missing_and_unexpected(self):
        del self.state[HYPERNETWORK + "LayerNorm.bias"], self.state["decoder.final_layer_norm.weight"]
        del self.state["encoder.block.1.layer.0.SelfAttention.k.weight"]
        self.state["more"] = self.state["encoder.extra.weight"] = torch.zeros(1)
        self.refuse(
            "pytorch_model.bin: tensors missing: decoder.adapter_layers_hyper_net.LayerNorm.bias, "
            "decoder.final_layer_norm.weight, encoder.block.1.layer.0.SelfAttention.k.weight; "
            "unexpected: encoder.extra.weight, more$"
        )

    @pytest.mark.parametrize(
        "name",
        ["layer_id_embeddings.weight", "task_hypernet.task_embeding_generator.2.weight", "adapters_block_type.weight"],
    )
    def test_a_size_that_is_missing(self, name):
        del self.state["encoder.adapter_layers_hyper_net." + name]
        self.refuse(f"tensors missing: encoder.adapter_layers_hyper_net.{name}$")

    def test_whole_stack_missing(self):
        self.state = {name: tensor for name, tensor in self.state.items() if not name.startswith(HYPERNETWORK)}
        self.refuse("tensors missing: decoder.adapter_layers_hyper_net.LayerNorm.bias, decoder")

    def test_sizes_of_a_new_t5_missing(self):
        for name in ("shared.weight", "lm_head.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"):
            del self.state[name]
        with pytest.raises(
            ValueError, match=r"missing: encoder\S+SelfAttention.q.weight, lm_head.weight, shared.weight"
        ):
            load(write(self.folder, self.state))

    def test_shapes(self):
        self.state[HYPERNETWORK + "up_sampler_hyper_net.bias_generator.0.bias"] = torch.zeros(15)
        self.state["task_embedding_controller.task_to_embeddings.ü"] = torch.zeros(7)
        self.refuse(
            r"up_sampler_hyper_net.bias_generator.0.bias must have shape \(16,\), got \(15,\).*"
            r"task_to_embeddings.ü must have shape \(6,\), got \(7,\)"
        )

    def test_another_size_of_backbone(self):
        other = T5ForConditionalGeneration(T5Config(**CONFIG | {"d_ff": 16}))
        self.refuse(r"DenseReluDense.wi.weight must have shape \(16, 16\), got \(32, 16\)", other)

    def test_another_number_of_layers(self):
        other = T5ForConditionalGeneration(T5Config(**CONFIG | {"num_layers": 2}))
        message = r"unexpected: encoder.block.2.*layer_id_embeddings.weight must have shape \(2, 6\), got \(3, 6\)"
        self.refuse(message, other)

    def test_a_backbone_whose_config_lies(self):
        self.backbone.config.d_ff = 8
        self.refuse("backbone must have the tensors that its config describes, got others: decoder.block.0")

    def test_a_backbone_that_is_attached(self):
        theirs = write(self.folder, self.state)
        model = load(theirs, self.backbone)
        with pytest.raises(ValueError, match="backbone must have a plain nn.Linear at encoder.block.0"):
            load(theirs, self.backbone)
        assert_same_model(model, published())

    def test_a_backbone_of_another_family(self):
        bert = BertModel(BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=50))
        self.refuse("backbone must be of model type t5 or mt5, got 'bert'", bert)
        with pytest.raises(TypeError, match="backbone must be a model, the name of one, or None, got 3"):
            load(write(self.folder, self.state), 3)

    def test_projected_task_embeddings(self):
        name = "task_embedding_controller.task_hyper_net.task_embeding_generator.0.weight"
        self.state[name] = torch.zeros(7, 6)
        self.refuse("must be trained with train_task_embeddings=False, got task_embedding_controller.task_hyper_net")

    def test_a_bias_of_another_shape(self):
        self.state[EXTRA] = torch.zeros(16, 4)
        self.refuse(rf"{EXTRA} must have shape \(32, 4\), got \(16, 4\)")

    def test_attention_that_cannot_take_the_bias(self):
        self.backbone.config._attn_implementation = self.backbone.decoder.config._attn_implementation = "flex_attention"
        self.refuse("attn_implementation must be eager or sdpa for a T5 with a bias .*, got 'flex_attention'")

    def test_tied_tensors_that_differ(self):
        self.state["lm_head.weight"] = self.state["lm_head.weight"] + 1
        self.refuse("lm_head.weight must equal shared.weight, which is the same parameter in this T5; it does not")

    def test_no_task(self):
        self.state = {name: tensor for name, tensor in self.state.items() if not name.startswith("task_")}
        self.refuse("must hold the task embeddings task_embedding_controller.task_to_embeddings.<task>")

    @pytest.mark.parametrize("value", [3, [torch.zeros(1)], torch.zeros(2).long(), None])
    def test_other_values(self, value):
        self.state["epoch"] = value
        self.refuse("(must hold tensors by name, got an? .* under 'epoch'|epoch must be one of float64, .* got torch)")

    def test_not_a_dict(self):
        self.state = [torch.zeros(1)]
        self.refuse("must hold a dict of tensors by name, got a list")

    def test_code_is_not_run(self):
        class Dangerous:
            def __reduce__(self):
                return open, (str(opened), "w")

        opened = self.folder / "opened"
        self.state["a"] = Dangerous()
        self.refuse("cannot be read as tensors alone")
        assert not opened.exists()

    @pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04nothing", pickle.dumps({"a": [1]})[:-4]])
    def test_not_a_checkpoint(self, content):
        (self.folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ValueError, match="pytorch_model.bin: cannot be read as tensors alone"):
            load(self.folder)

    def test_truncated(self):
        file = write(self.folder, self.state) / "pytorch_model.bin"
        file.write_bytes(file.read_bytes()[:-5000])
        with pytest.raises(ValueError, match="pytorch_model.bin: cannot be read as tensors alone"):
            load(self.folder)

    def test_no_file(self):
        for path in (self.folder, self.folder / "missing.bin"):
            with pytest.raises(FileNotFoundError, match="no such file; a published checkpoint is a pytorch_model.bin"):
                load(path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "config.json: not a JSON file"),
            ("[]", "config.json: not a JSON file: must hold one JSON object, got \\[\\]"),
            ('{"model_type": "bert"}', "config.json: model_type must be t5, got 'bert'"),
            ('{"d_ff": "wide"}', "config.json: not the config of a T5"),
            ('{"d_ff": 16}', r"wi.weight must have shape \(16, 16\), got \(32, 16\)"),
        ],
    )
    def test_config_beside_the_file_is_wrong(self, text, message):
        write(self.folder, self.state)
        (self.folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load(self.folder)

    def test_attention_from_elsewhere(self):
        config = T5Config(**CONFIG).to_dict() | {"attn_implementation": "owner/repo"}
        (self.folder / "backbone").mkdir()
        (self.folder / "backbone" / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="attn_implementation must be one of eager, .*, got 'owner/repo'"):
            load_published_checkpoint(write(self.folder, self.state), str(self.folder / "backbone"))

    @pytest.mark.parametrize("number", [torch.nan, torch.inf])
    def test_numbers_that_are_none(self, number):
        self.state["lm_head.weight"] = self.state["lm_head.weight"].clone()
        self.state["lm_head.weight"][0, 0] = number
        self.refuse("lm_head.weight must be finite")

    def test_activation(self):
        with pytest.raises(ValueError, match="activation must be one of .*, got 'tanh'"):
            load(write(self.folder, self.state), activation="tanh")


@pytest.mark.parametrize("how", ["missing", "zero"])
def test_a_bias_that_does_nothing_is_not_there(tmp_path, how):
    """Also in a backbone that had another one before."""
    theirs = published()
    backbone = load(write(tmp_path, theirs.checkpoint())).detach()
    assert torch.equal(backbone.state_dict()[EXTRA], theirs.bias)
    theirs.bias.zero_()
    state = theirs.checkpoint()
    if how == "missing":
        del state[EXTRA]
    model = load(write(tmp_path, state), backbone)
    assert EXTRA not in model.backbone.state_dict()
    assert not model.backbone.decoder.block[0].layer[1].EncDecAttention._forward_pre_hooks
    assert_same_model(model, theirs)
