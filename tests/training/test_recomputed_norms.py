"""Runs with ``training: {recompute_norms: true}``: the same numbers, and where it is refused."""

import dataclasses

import pytest

from hyperloader.training.run import train
from hyperloader.training.run_folder import check_output


def test_recomputed_norms_change_nothing(settings, tmp_path):
    plain = train(settings(), progress=False)
    changed = settings(output=str(tmp_path / "changed"), training={"recompute_norms": True})
    assert train(changed, progress=False)["learning_curve"] == plain["learning_curve"]
    resumed = dataclasses.replace(settings(), training={**settings().training, "recompute_norms": True})
    assert check_output(resumed, resume=True) == plain


@pytest.mark.parametrize("option", ["compile", "gradient_checkpointing"])
def test_recomputed_norms_beside_what_keeps_less_itself(settings, option):
    with pytest.raises(ValueError, match=f"recompute_norms must be false with {option}: true, which keeps less"):
        settings(training={"recompute_norms": True, option: True})


@pytest.mark.parametrize("changes", [
    {"method": "adapter"}, {"method": "full"}, {"model": {"lora_sites": []}}, {"model": {"train_norms": False}}
])  # fmt: skip
def test_recomputed_norms_without_any(settings, changes):
    with pytest.raises(ValueError, match="recompute_norms must be false without generated LoRA and trained norms"):
        settings(training={"recompute_norms": True}, **changes)
