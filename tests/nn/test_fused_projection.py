"""Updates of slices of one layer, against each slice computed by itself."""

import torch
from helpers.families import TASK_IDS, batch_for, model_for
from torch.nn import functional

from hyperloader import ops
from hyperloader.nn.fused_projection import joined


def test_one_update_does_what_those_of_the_slices_do():
    torch.manual_seed(0)
    weight, x = torch.randn(14, 6).double(), torch.randn(3, 4, 6).double()
    updates = [((torch.randn(2, 2, 6).double(), torch.randn(2, stop - start, 2).double()), (start, stop))
               for start, stop in ((0, 5), (9, 14))]  # fmt: skip
    group = torch.tensor([0, 1, 1])
    lora_A, lora_B = joined(updates, 14)
    found = ops.lora_linear(x, weight, None, lora_A, lora_B, group=group, scaling=0.5)
    plain = functional.linear(x, weight)
    assert torch.equal(found[..., 5:9], plain[..., 5:9]), "what no site is stays as it is"
    for (A, B), (start, stop) in updates:
        alone = ops.lora_linear(x, weight[start:stop], None, A, B, group=group, scaling=0.5)
        torch.testing.assert_close(found[..., start:stop], alone, rtol=0, atol=1e-12)


def test_an_update_of_all_is_left_alone():
    update = (torch.randn(2, 6), torch.randn(14, 2))
    assert all(one is other for one, other in zip(joined([(update, (0, 14))], 14), update, strict=True))


def test_the_key_of_a_fused_projection_is_not_updated():
    """What the layer returns at a key's outputs is the frozen product, to the bit."""
    for name, path in (("gpt2", "transformer.h.0.attn.c_attn"), ("phi3", "model.layers.0.self_attn.qkv_proj")):
        model, seen = model_for(name), []
        model.backbone.get_submodule(path).register_forward_hook(lambda site, x, y: seen.append((site, x[0], y)))  # noqa: B023
        with torch.no_grad():
            model(**batch_for(model.backbone), task_ids=TASK_IDS)
            ((site, x, y),) = seen
            plain = site.linear(x)
        start, stop = (16, 32) if name == "gpt2" else (16, 24)
        assert torch.equal(y[..., start:stop], plain[..., start:stop])
        assert not torch.equal(y[..., :start], plain[..., :start])
        assert not torch.equal(y[..., stop:], plain[..., stop:])
