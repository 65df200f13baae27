"""Which site a linear layer of an unknown backbone may be, guessed from its name."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from hyperloader.backbones.patterns import linear_patterns
from hyperloader.config import POSITIONS
from hyperloader.nn.linears import sizes_of

_FUSED = re.compile(r"qkv|query_key_value|c_attn|in_proj", re.IGNORECASE)
_ATTENTION = re.compile(r"att", re.IGNORECASE)
_CROSS = re.compile(r"cross|encoder_att|encdec", re.IGNORECASE)
_OF_ATTENTION = {
    "query": r"q|query|q_?proj|q_lin|query_proj|wq",
    "value": r"v|value|v_?proj|v_lin|value_proj|wv",
    "key": r"k|key|k_?proj|k_lin|key_proj|wk",
    "output": r"o|o_proj|out|out_proj|out_lin|output|c_proj|dense|proj|wo",
}
_OF_FEED_FORWARD = {
    "gate": r"gate|gate_proj|w1|wi_0",
    "up": r"up|up_proj|fc1|fc_in|c_fc|dense_h_to_4h|w3|wi|wi_1|lin1|gate_up_proj|linear1",
    "down": r"down|down_proj|fc2|fc_out|c_proj|dense_4h_to_h|w2|wo|lin2|linear2|dense",
}


def linear_layers(backbone: nn.Module) -> dict[str, tuple[int, int, int, str]]:
    """Pattern -> layers, in_features and out_features of the first, and the site of LoRA that it may be, or ""."""
    found = {}
    for pattern, paths in linear_patterns(backbone).items():
        sizes: Any = sizes_of(backbone.get_submodule(paths[0]))
        found[pattern] = (len(paths), *sizes, site_of(pattern))
    return found


def proposed_sites(layers: Mapping[str, tuple[int, int, int, str]]) -> dict[str, list[str]]:
    """What may be given as ``sites``: adapters behind the output of attention and feed-forward, LoRA on query and
    value; a fused projection is the query as a whole."""
    found: dict[str, list[str]] = {}
    for pattern, (*_, site) in layers.items():
        adapter = {"self_attention.output": "self_attention", "feed_forward.down": "feed_forward"}.get(site)
        usual = site.endswith((".query", ".value"))
        wanted = adapter or (site if usual else "")
        if wanted and not any(_same_stack(pattern, other) for other in found.get(wanted, [])):
            found.setdefault(wanted, []).append(pattern)
    return {site: found[site] for site in POSITIONS if site in found}


def site_of(pattern: str) -> str:
    """The site of LoRA that the layers at ``pattern`` may be; "" without a guess."""
    *outer, name = pattern.partition(".*.")[2].split(".")
    around = ".".join(outer)
    attention = "cross_attention" if _CROSS.search(around) else "self_attention"
    if _FUSED.search(name):
        return f"{attention}.query"
    if _ATTENTION.search(around) or re.fullmatch(r"[qkv]_proj|query|key|value", name):
        return _first(attention, name, _OF_ATTENTION)
    return _first("feed_forward", name, _OF_FEED_FORWARD)


def _first(of: str, name: str, guesses: Mapping[str, str]) -> str:
    return next((f"{of}.{what}" for what, names in guesses.items() if re.fullmatch(names, name, re.IGNORECASE)), "")


def _same_stack(pattern: str, other: str) -> bool:
    return pattern.partition(".*.")[0] == other.partition(".*.")[0]
