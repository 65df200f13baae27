"""A run on the Hugging Face Hub."""

from collections.abc import Mapping
from pathlib import Path

from hyperloader.checkpoints import hub
from hyperloader.checkpoints.card import Score, model_card
from hyperloader.config import HyperLoaderConfig
from hyperloader.data.kinds import kinds_of_config
from hyperloader.json_file import read_json
from hyperloader.training.headlines import headline
from hyperloader.training.run_folder import BEST, CONFIG, KINDS, LABELS, METRICS
from hyperloader.training.saved_run import Run, load_run
from hyperloader.training.word_rules import WORDS

RUN_FILES = (CONFIG, LABELS, KINDS, WORDS, f"{BEST}/*")
_USAGE = """from hyperloader import Tagger

tagger = Tagger.from_pretrained({name!r})
print(tagger("a text of yours", task={task!r}))"""


def push_run(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    license: str | None = None,
) -> str:
    """Put what is needed to use the run in ``folder``, its metrics and a model card into the repository ``repo_id`` of
    the Hub; returns the address of the commit.

    Nothing of its data goes there, nor its checkpoints. Raises what ``load_run`` and ``hub.push`` raise.
    """
    folder = Path(folder)
    run = load_run(folder)  # nothing damaged is published
    card = run_card(run, folder, repo_id, license)
    return hub.push(folder, repo_id, (*RUN_FILES, METRICS), card, private, token)


def run_card(run: Run, folder: Path, repo_id: str, license: str | None = None) -> str:
    """The model card of a run: tasks, labels and, where it was scored, the test scores."""
    config = HyperLoaderConfig(tasks=run.tasks, labels=run.labels, **kinds_of_config(run.kinds))
    metrics = read_json(folder / METRICS, "the metrics of a run") if (folder / METRICS).is_file() else {}
    trained = sum(one.numel() for one in run.model.parameters() if one.requires_grad)
    usage = _USAGE.format(name=repo_id, task=run.tasks[0])
    return model_card(
        repo_id, run.config.backbone, config, trained, usage, scores=_scores(metrics.get("test")), license=license
    )


def _scores(test: Mapping | None) -> dict[str, Score] | None:
    """The headline score of every task, None where none was taken."""
    if test is None:
        return None
    keys = {task: headline(scores) for task, scores in test["tasks"].items()}
    return {task: (keys[task], scores[keys[task]]) for task, scores in test["tasks"].items()}
