"""A whole T5 in the manner of the published code: its classes generate and apply, layer by layer, in every forward."""

from types import SimpleNamespace

import torch
from helpers.published_oracle import CrossAttention, make_config, randomise
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

TASKS = ["atis", "mit.movie", "ü"]
EXTRA = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
CONFIG = {"d_model": 16, "d_kv": 4, "num_heads": 4, "d_ff": 32, "num_layers": 3, "num_decoder_layers": 2}
CONFIG |= {"vocab_size": 50, "decoder_start_token_id": 0, "dropout_rate": 0.0}


class PublishedT5(nn.Module):
    """``classes`` holds the three classes that a published model file imports: the package's, or the oracle's."""

    def __init__(self, classes, tasks=TASKS, t5=(), **changes):
        super().__init__()
        torch.manual_seed(11)
        self.backbone = T5ForConditionalGeneration(T5Config(**CONFIG | dict(t5))).eval()
        self.backbone.generation_config.use_cache = False
        for part in (self.backbone, self.backbone.decoder):
            part.config.use_cache = False
        self.bias = torch.randn(32, 4, generator=torch.Generator().manual_seed(13))
        for block in self.backbone.decoder.block:
            block.layer[1].EncDecAttention = CrossAttention(block.layer[1].EncDecAttention, self.bias)
        config = make_config(**changes)
        self.embeddings = nn.ParameterDict({str(i): torch.randn(config.task_embedding_dim) for i in range(len(tasks))})
        self.tasks, self.task = list(tasks), 0
        self.stacks = nn.ModuleDict()
        self.adapter, self.lora = classes.MetaLayersAdapterController(config), classes.MetaLoRALayer()
        for name in ("encoder", "decoder"):
            stack = getattr(self.backbone, name)
            self.stacks[name] = randomise(classes.AdapterLayersOneHyperNetController(config, len(stack.block)))
            for layer, block in enumerate(stack.block):
                self._hook(name, layer, block, block.layer[0].SelfAttention, ("lora_query", "lora_value"))
                if name == "decoder":
                    cross = block.layer[1].EncDecAttention
                    self._hook(name, layer, None, cross, ("lora_cross_query", "lora_cross_value"))
        self.without_lora = False

    def _hook(self, stack, layer, block, attention, fields):
        def weights():
            return self.stacks[stack](self.embeddings[str(self.task)], layer)

        def generate_once(module, inputs):
            self.current = weights()

        def lora(field):
            def add(module, inputs, output):
                if self.without_lora:
                    return output
                pair = getattr(self.current, field)
                return output + self.lora(inputs[0], pair.a, pair.b)

            return add

        def adapter(field):
            return lambda module, inputs, output: self.adapter(output, getattr(self.current, field))

        attention.q.register_forward_hook(lora(fields[0]))
        attention.v.register_forward_hook(lora(fields[1]))
        if block is not None:
            block.register_forward_pre_hook(generate_once)
            attention.o.register_forward_hook(adapter("self_attention"))
            block.layer[-1].DenseReluDense.wo.register_forward_hook(adapter("feed_forward"))

    def forward(self, task, **inputs):
        self.task = self.tasks.index(task)
        return self.backbone(**inputs)

    def checkpoint(self):
        """The state dict that the published code would write, its extra tensor included."""
        state = {name: tensor.detach().clone() for name, tensor in self.backbone.state_dict().items()}
        state[EXTRA] = self.bias
        for name, stack in self.stacks.items():
            state |= {f"{name}.adapter_layers_hyper_net.{key}": value for key, value in stack.state_dict().items()}
        for i, task in enumerate(self.tasks):
            state[f"task_embedding_controller.task_to_embeddings.{task}"] = self.embeddings[str(i)].detach().clone()
        return state


def batch():
    generator = torch.Generator().manual_seed(2)
    ids, labels = (torch.randint(2, 50, (3, length), generator=generator) for length in (7, 6))
    return {"input_ids": ids, "labels": labels}


def classes(module):
    names = ("AdapterLayersOneHyperNetController", "MetaLayersAdapterController", "MetaLoRALayer")
    return SimpleNamespace(**{name: getattr(module, name) for name in names})
