"""Runs on checkpoints without a pooler, used by another process than the one that trained."""

import json
import subprocess
import sys

import pytest
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaXLConfig,
    XLMRobertaXLModel,
)

from hyperloader.backbones.origin import without_pooler
from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig

pytestmark = pytest.mark.slow

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
DEBERTA = {"relative_attention": True, "position_buckets": 4, "share_att_key": True, "pos_att_type": ["p2c", "c2p"]}
FAMILIES = {
    "bert": (BertModel, BertConfig, SIZES),
    "roberta": (RobertaModel, RobertaConfig, SIZES | {"pad_token_id": 0}),
    "electra": (ElectraModel, ElectraConfig, SIZES | {"embedding_size": 16}),
    "albert": (AlbertModel, AlbertConfig, SIZES | {"embedding_size": 8}),
    "camembert": (CamembertModel, CamembertConfig, SIZES | {"pad_token_id": 0}),
    "deberta": (DebertaV2Model, DebertaV2Config, SIZES | DEBERTA),
    "mpnet": (MPNetModel, MPNetConfig, SIZES | {"pad_token_id": 0}),
    "xlm-roberta-xl": (XLMRobertaXLModel, XLMRobertaXLConfig, SIZES | {"pad_token_id": 0}),
    "distilbert": (DistilBertModel, DistilBertConfig, {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}),
}
SAVED = ("without-pooler", "language-model")
TRAINING = {"steps": 4, "batch_size": 8, "eval_steps": 2, "save_steps": 2, "log_steps": 1, "report_to": "none"}

CHILD = """
import json, pathlib, shutil, sys
from hyperloader.training.run import RunConfig, train
from hyperloader.training.saved_run import evaluate, load_run, predict
for folder in map(pathlib.Path, sys.argv[1:]):
    before = json.loads((folder / "metrics.json").read_text())
    scores = evaluate(folder)
    tags = list(predict(load_run(folder), [("show", "red")], "colours"))
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "checkpoint-4")
    resumed = train(RunConfig.from_yaml(folder / "config.yaml"), resume=True, progress=False)
    print(json.dumps([folder.name, scores == before["test"], [len(one) for one in tags], resumed["test"] == scores]))
"""


@pytest.fixture(scope="module")
def results(data, bert, tmp_path_factory):
    """Run -> what another process made of it."""
    folder, runs = tmp_path_factory.mktemp("runs"), []
    tokenizer = AutoTokenizer.from_pretrained(bert)
    for family, (kind, config_kind, sizes) in FAMILIES.items():
        config = config_kind(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)
        for how in SAVED:
            backbone = folder / "backbones" / f"{family}-{how}"
            model = (
                kind(config, **without_pooler(kind))
                if how == "without-pooler"
                else AutoModelForMaskedLM.from_config(config)
            )
            assert not any("pooler" in key for key in model.state_dict())
            model.save_pretrained(backbone)
            tokenizer.save_pretrained(backbone)
            values = {
                "backbone": str(backbone),
                "tasks": str(data / "tasks.yaml"),
                "output": str(folder / backbone.name),
            }
            train(
                RunConfig.from_dict(values | {"model": {"reduction_factor": 4}, "training": TRAINING}), progress=False
            )
            runs.append(values["output"])
    child = subprocess.run([sys.executable, "-c", CHILD, *runs], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-2000:]
    lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith('["')]
    return {name: found for name, *found in lines}


@pytest.mark.parametrize("how", SAVED)
@pytest.mark.parametrize("family", FAMILIES)
def test_evaluate_predict_and_resume(results, family, how):
    same_scores, lengths, same_end = results[f"{family}-{how}"]
    assert same_scores
    assert lengths == [2]
    assert same_end
