"""load_published_checkpoint: a whole published model, with every number where it belongs."""

import pytest
import torch
from helpers import published_oracle as oracle
from helpers.published_checkpoint import assert_same_model, load, published, write
from helpers.published_pairs import NORMS, norms
from helpers.published_t5 import CONFIG, EXTRA, TASKS, batch
from transformers import T5Config, T5ForConditionalGeneration

from hyperloader import HyperLoaderModel


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
        with pytest.raises(ValueError, match="tensors missing: shared.weight; unexpected: none$"):
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
