"""load_published_checkpoint refuses a file that is not all there or not what it should be."""

import json
import pickle

import pytest
import torch
from helpers.published_checkpoint import assert_same_model, load, published, write
from helpers.published_t5 import CONFIG, EXTRA
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

HYPERNETWORK = "decoder.adapter_layers_hyper_net."


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
        self.refuse(f"tensors missing: encoder.adapter_layers_hyper_net.{name}; unexpected: none$")

    def test_whole_stack_missing(self):
        self.state = {name: tensor for name, tensor in self.state.items() if not name.startswith(HYPERNETWORK)}
        self.refuse("tensors missing: 22 names such as decoder.adapter_layers_hyper_net.LayerNorm.bias, decoder")

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
        message = r"8 names such as encoder.block.2.*layer_id_embeddings.weight must have shape \(2, 6\), got \(3, 6\)"
        self.refuse(message, other)

    def test_a_backbone_with_a_wrong_config(self):
        self.backbone.config.d_ff = 8
        self.refuse(
            "backbone must have the tensors that its config describes, got others: 10 tensors such as decoder.block.0"
        )

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
            load(write(self.folder, self.state), str(self.folder / "backbone"))

    @pytest.mark.parametrize("number", [torch.nan, torch.inf])
    def test_nan_and_infinity(self, number):
        self.state["lm_head.weight"] = self.state["lm_head.weight"].clone()
        self.state["lm_head.weight"][0, 0] = number
        self.refuse("lm_head.weight must be finite")

    def test_activation(self):
        with pytest.raises(ValueError, match="activation must be one of .*, got 'tanh'"):
            load(write(self.folder, self.state), activation="tanh")
