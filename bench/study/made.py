"""Tasks and backbones that the grid of learning rates needs and that no package carries."""

from itertools import islice
from pathlib import Path

from hyperloader.training.backbone import backbone_path
from hyperloader.training.run_config import RunConfig

_SPLITS = ("train", "validation", "test")
_LAYERS, _HEADS = 2, 4


def parts_of(recipe: RunConfig, count: int, folder: Path) -> list[dict]:
    """``count`` tasks: the recipe's first ones or, if it has fewer, its sets in parts, every n-th sentence each."""
    tasks = [{"name": entry.name, "path": str(entry.path)} for entry in recipe.task_entries()]
    if count <= len(tasks):
        return tasks[:count]
    made = []
    for number, task in enumerate(tasks):
        parts = count // len(tasks) + (number < count % len(tasks))
        for part in range(parts):
            path = folder / f"{task['name']}-{part}"
            made.append({"name": f"{task['name']} {part}", "path": str(path)})
            path.mkdir(parents=True, exist_ok=True)
            for split in _SPLITS:
                lines = (Path(task["path"]) / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
                (path / f"{split}.jsonl").write_text("".join(islice(lines, part, None, parts)), encoding="utf-8")
    return made


def random_backbone(like: str, hidden: int, folder: Path) -> Path:
    """A BERT of two layers, ``hidden`` wide, with random weights and the vocabulary of ``like``."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertModel

    if not (folder / "config.json").is_file():
        like = backbone_path(like)
        config = AutoConfig.from_pretrained(like)
        config.update({"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_attention_heads": _HEADS})
        config.num_hidden_layers = _LAYERS
        torch.manual_seed(0)
        AutoTokenizer.from_pretrained(like).save_pretrained(folder)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
