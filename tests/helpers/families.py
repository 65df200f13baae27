"""One tiny random backbone of every family, and batches for it. To add a family: a line in ``FAMILIES``."""

from typing import Any

import torch
import transformers

from hyperloader import HyperLoaderConfig, HyperLoaderModel

VOCABULARY = 50
TASKS = ["a", "b", "c"]
LABELS = {"a": ["O", "B-x", "I-x"], "b": ["O"], "c": ["O", "B-y", "I-y", "B-z", "I-z"]}
TASK_IDS = torch.tensor([0, 2, 1, 0])  # of the sentences of ``batch_for``
LENGTHS = (7, 4, 6, 5)  # tokens of each sentence

_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
_SIZES |= {"num_hidden_layers": 2}
_DISTILBERT = {"vocab_size": VOCABULARY, "dim": 16, "n_heads": 2, "hidden_dim": 32, "n_layers": 2}
_T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 4, "num_heads": 4, "d_ff": 32, "num_layers": 2}
_T5 |= {"num_decoder_layers": 2, "decoder_start_token_id": 0}
_T5_GATED = _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_GROUPED = _SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
_WINDOW = {"sliding_window": 3}
_LAYER_TYPES = ["sliding_attention", "full_attention"]
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 20}
_GPT2 |= {"bos_token_id": None, "eos_token_id": None}

_DEBERTA = _SIZES | {"relative_attention": True, "position_buckets": 4, "max_relative_positions": 16}
_DEBERTA |= {"share_att_key": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
_DEBERTA |= {"position_biased_input": False, "type_vocab_size": 0}
_MODERNBERT = _SIZES | {"local_attention": 4, "global_attn_every_n_layers": 2, "pad_token_id": 0}
_ALBERT = _SIZES | {"embedding_size": 8}
_BART = {"vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32}
_BART |= {"decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
_BART |= {"max_position_embeddings": 64, "decoder_start_token_id": 2, "forced_eos_token_id": None}
_LONGT5 = _T5 | {"local_radius": 3}
_LONGT5_GLOBAL = _LONGT5 | {"global_block_size": 2, "encoder_attention_type": "transient-global"}

# name -> (class of transformers, sizes): an encoder, a causal or a sequence-to-sequence language model
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", _SIZES),
    "roberta": ("RobertaModel", _SIZES),
    "xlm-roberta": ("XLMRobertaModel", _SIZES),
    "electra": ("ElectraModel", _SIZES | {"embedding_size": 16}),
    "distilbert": ("DistilBertModel", _DISTILBERT),
    "t5": ("T5ForConditionalGeneration", _T5),
    "t5-gated": ("T5ForConditionalGeneration", _T5_GATED),
    "mt5": ("MT5ForConditionalGeneration", _T5),
    "camembert": ("CamembertModel", _SIZES),
    "modernbert": ("ModernBertModel", _MODERNBERT),
    "mpnet": ("MPNetModel", _SIZES),
    "xlm-roberta-xl": ("XLMRobertaXLModel", _SIZES),
    "albert": ("AlbertModel", _ALBERT),
    "albert-groups": ("AlbertModel", _ALBERT | {"num_hidden_groups": 2, "inner_group_num": 2}),
    "deberta-v2": ("DebertaV2Model", _DEBERTA | {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "deberta-v2-own-positions": ("DebertaV2Model", _DEBERTA | {"share_att_key": False}),
    "deberta-v3": ("DebertaV2Model", _DEBERTA),
    "bart": ("BartForConditionalGeneration", _BART),
    "mbart": ("MBartForConditionalGeneration", _BART),
    "pegasus": ("PegasusForConditionalGeneration", _BART),
    "umt5": ("UMT5ForConditionalGeneration", _T5),
    "umt5-encoder": ("UMT5EncoderModel", _T5),
    "longt5": ("LongT5ForConditionalGeneration", _LONGT5),
    "longt5-global": ("LongT5ForConditionalGeneration", _LONGT5_GLOBAL),
    "longt5-encoder": ("LongT5EncoderModel", _LONGT5),
    "llama": ("LlamaForCausalLM", _GROUPED),
    "llama-base": ("LlamaModel", _GROUPED),
    "llama-tied": ("LlamaForCausalLM", _GROUPED | {"tie_word_embeddings": True, "attention_bias": True}),
    "qwen2": ("Qwen2ForCausalLM", _GROUPED | _WINDOW | {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("Qwen3ForCausalLM", _GROUPED | {"head_dim": 6}),
    "mistral": ("MistralForCausalLM", _GROUPED | _WINDOW),
    "gemma": ("GemmaForCausalLM", _GROUPED | {"head_dim": 6}),
    "gemma2": ("Gemma2ForCausalLM", _GROUPED | _WINDOW | {"head_dim": 6}),
    "gemma3": ("Gemma3ForCausalLM", _GROUPED | _WINDOW | {"head_dim": 6, "layer_types": _LAYER_TYPES}),
    "olmo2": ("Olmo2ForCausalLM", _GROUPED),
    "phi3": ("Phi3ForCausalLM", _GROUPED | _WINDOW),
    "gpt2": ("GPT2LMHeadModel", _GPT2),
}


def make(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """The backbone of a family, with the same weights every time and in evaluation mode."""
    kind, sizes = FAMILIES[name]
    found: Any = getattr(transformers, kind)
    torch.manual_seed(1)
    return found(found.config_class(**sizes | changes)).to(dtype).eval()


def kind_of(backbone: Any) -> str:
    """``encoder``, ``causal`` or ``sequence-to-sequence``."""
    if backbone.config.is_encoder_decoder and backbone.can_generate():
        return "sequence-to-sequence"
    return "causal" if backbone.can_generate() else "encoder"


def model_for(name: str, dtype: torch.dtype = torch.float64, backbone: Any = None, **options: Any) -> HyperLoaderModel:
    """A model on the family's backbone, in evaluation mode; trained parameters are random unless ``init`` is given."""
    backbone = make(name, dtype) if backbone is None else backbone
    labels = LABELS if kind_of(backbone) == "encoder" else None
    config = HyperLoaderConfig(tasks=TASKS, **{"labels": labels, "reduction_factor": 4, "rank": 2} | options)
    torch.manual_seed(3)
    model = HyperLoaderModel(backbone, config).to(dtype).eval()
    if "init" not in options:
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, 0, 0.3)
    return model


def batch_for(backbone: Any) -> dict[str, torch.Tensor]:
    """Sentences of ``LENGTHS``, padded on the right; for a causal model on the left, with positions."""
    generator = torch.Generator().manual_seed(2)
    longest, left = max(LENGTHS), kind_of(backbone) == "causal"
    mask = torch.zeros(len(LENGTHS), longest).long()
    for row, length in enumerate(LENGTHS):
        mask[row, longest - length if left else 0 : longest if left else length] = 1
    ids = torch.randint(2, VOCABULARY, mask.shape, generator=generator) * mask
    batch = {"input_ids": ids, "attention_mask": mask}
    if left:
        batch["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        batch["labels"] = ids.masked_fill(mask == 0, -100)
    elif kind_of(backbone) == "encoder":
        sizes = torch.tensor([len(LABELS[task]) for task in TASKS])[TASK_IDS]
        labels = torch.randint(10**6, mask.shape, generator=generator) % sizes[:, None]
        batch["labels"] = labels.masked_fill(mask == 0, -100)
    else:
        batch["labels"] = torch.randint(2, VOCABULARY, (len(LENGTHS), 5), generator=generator)
    return batch


def sentence(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One sentence of a batch, without its padding."""
    real = batch["attention_mask"][row].bool()
    return {
        name: tensor[row : row + 1, real] if tensor.shape == batch["input_ids"].shape else tensor[row : row + 1]
        for name, tensor in batch.items()
    }
