"""python -m bench.study.payload FILE.tar.xz --data FOLDER: what a study needs on a machine without network.

MiniLM with its weights rounded to float16, which halves them; the seven data sets and the hard mixture made from them;
the Python packages that a machine with PyTorch and transformers may lack. ``bench/gpu-study.sh`` unpacks it there.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from bench import command
from hyperloader.checkpoints.minilm import minilm_folder

SETS = ("mit_movie_trivia", "mit_movie", "mit_restaurant", "atis", "snips", "mtod", "mtop")
PACKAGES = ("peft", "seqeval")
_WEIGHTS = "model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.study.payload", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), given.data)
        with tarfile.open(given.file, "w:xz") as archive:
            archive.add(folder, "payload")
    print(f"{given.file}: {given.file.stat().st_size / 1e6:.1f} MB")


def fill(folder: Path, data: Path) -> None:
    """Put weights, data and packages into ``folder``."""
    shutil.copytree(minilm_folder(), folder / "minilm", ignore=shutil.ignore_patterns(_WEIGHTS, "*.bin", "*.onnx"))
    weights = load_file(minilm_folder() / _WEIGHTS)
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    save_file(halved, folder / "minilm" / _WEIGHTS, {"format": "pt"})
    for name in SETS:
        shutil.copytree(data / name, folder / "data" / name, ignore=lambda _, names: _not_jsonl(names))
    subprocess.run([sys.executable, "-m", "bench.study.hard", folder / "hard", "--data", data], check=True)
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{name} is not installed; run: pip install {name}")
        package = Path(spec.origin).parent
        shutil.copytree(package, folder / "site" / name, ignore=shutil.ignore_patterns("__pycache__"))
        for about in package.parent.glob(f"{name}-*.dist-info"):
            shutil.copytree(about, folder / "site" / about.name)


def _not_jsonl(names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".jsonl")]


if __name__ == "__main__":
    sys.exit(command.run(main))
