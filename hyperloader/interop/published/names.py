"""The published names of a stack's hypernetwork, and ours: module by module, in the order of ``ops``' arguments."""

CONDITION = {
    "layer_id_embeddings": "condition.layer_embedding",
    "adapters_block_type": "condition.position_embedding",
    "task_hypernet.task_embeding_generator.0": "condition.first",
    "task_hypernet.task_embeding_generator.2": "condition.second",
    "LayerNorm": "condition.norm",
}
ADAPTER = {
    "down_sampler_hyper_net.weight_generator.0": "heads.down_weight",
    "down_sampler_hyper_net.bias_generator.0": "heads.down_bias",
    "up_sampler_hyper_net.weight_generator.0": "heads.up_weight",
    "up_sampler_hyper_net.bias_generator.0": "heads.up_bias",
}
LORA = {"lora_a_hyper_net.weight_generator.0": "heads.lora_A", "lora_b_hyper_net.weight_generator.0": "heads.lora_B"}
_NORMS = ("post_layernorm_hypernet", "pre_layernorm_hypernet")

# Whether an adapter normalises (before, after) its two products, and what ``ops.adapter`` calls that.
NORMS = {(False, False): "none", (True, False): "pre", (False, True): "post", (True, True): "both"}


def norm_modules(before: bool, after: bool) -> dict[str, str]:
    """The heads of the adapters' norms; our ``pre_norm_*`` are the inner norm of two, ``norm_*`` an only one."""
    found: dict[str, str] = {}
    for name, wanted in zip(_NORMS, (after, before), strict=True):
        if wanted:
            ours = "heads.pre_norm" if found else "heads.norm"
            found |= {f"{name}.weight_generator": f"{ours}_weight", f"{name}.bias_generator": f"{ours}_bias"}
    return found
