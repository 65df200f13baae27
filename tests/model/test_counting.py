"""Parameters are counted as numbers."""

import torch
from helpers.families import TASK_IDS, batch_for
from helpers.quantized import model_for, with_library

from hyperloader.backbones.quantization import QUANTIZATIONS
from hyperloader.model.counting import parameter_counts


@with_library(QUANTIZATIONS)
@torch.no_grad()
def test_parameters_are_counted_as_numbers_however_they_are_packed(quantization, tmp_path):
    plain, model = model_for("bert", None), model_for("bert", quantization)
    assert parameter_counts(model) == parameter_counts(plain)
    assert sum(parameter_counts(model)) > 0 and model.trainable_parameters() == plain.trainable_parameters()
    model.save_pretrained(tmp_path)
    own, total = parameter_counts(plain)
    assert f"{own:,} trained parameters, of {total:,} in all" in (tmp_path / "README.md").read_text()
    batch = batch_for(model.backbone)
    model.eval()(batch["input_ids"], batch["attention_mask"], task_ids=TASK_IDS)  # some libraries pack anew for it
    assert parameter_counts(model) == (own, total)
