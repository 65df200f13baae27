"""Runs on backbones with tokenizers of their own kind: DeBERTa's pieces, ModernBERT's bytes."""

import json

import pytest
import torch
import yaml

from hyperloader.data import Sentence, TokenClassification
from hyperloader.training.backbone import load_backbone
from hyperloader.training.saved_run import evaluate, load_run, predict

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
TEXT = ["show me the red shirts please", "from new york to san jose", "don't pay $1.50, U.S. dark-red"] * 5


def deberta(folder):
    """A DeBERTa v3 and its tokenizer: pieces of a unigram model that begin with a space's mark."""
    from transformers import DebertaV2Config, DebertaV2Model, DebertaV2Tokenizer

    whole = [("▁" + word, -2.0) for word in ("show", "me", "red", "new", "york", "shirt", "from", "to", "the")]
    letters = sorted({letter for text in TEXT for letter in text if letter != " "} | {"▁"})
    pieces = [(token, 0.0) for token in SPECIAL] + whole + [("s", -3.0), ("don", -3.0)]
    pieces += [(letter, -6.0) for letter in letters if letter != "s"]
    tokenizer = DebertaV2Tokenizer(vocab=pieces, unk_id=SPECIAL.index("[UNK]"))
    config = DebertaV2Config(
        vocab_size=len(tokenizer), relative_attention=True, position_buckets=8, share_att_key=True,
        max_relative_positions=32, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm", position_biased_input=False,
        type_vocab_size=0, **SIZES,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    DebertaV2Model(config).save_pretrained(folder)


def modernbert(folder):
    """A ModernBERT and its tokenizer: bytes joined to pairs, saved without a space before the first word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=letters, show_progress=False)
    core.train_from_iterator(TEXT, trainer)
    core.decoder = decoders.ByteLevel()
    ends = [(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    tokenizer.save_pretrained(folder)
    ids = {
        f"{name}_token_id": SPECIAL.index(token)
        for name, token in (("pad", "[PAD]"), ("bos", "[CLS]"), ("cls", "[CLS]"), ("eos", "[SEP]"), ("sep", "[SEP]"))
    }
    ModernBertModel(ModernBertConfig(vocab_size=len(tokenizer), **ids, **SIZES)).save_pretrained(folder)


FIRST = {"deberta": "▁", "modernbert": "Ġ"}
MAKERS = {"deberta": deberta, "modernbert": modernbert}


@pytest.fixture(scope="module", params=MAKERS)
def backbone(request, tmp_path_factory):
    """The name of a family, and a folder with a tiny random backbone and a tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    MAKERS[request.param](folder)
    return request.param, folder


def test_the_label_stands_at_the_first_piece_of_each_word(backbone):
    name, folder = backbone
    _, tokenizer = load_backbone(str(folder), "token-classification")
    words = ("show", "me", "shirts", ",", "don't", "$1.50", "U.S.", "dark-red", "new", "york", "?")
    labels = [f"label {number}" for number in range(len(words))]
    formulation = TokenClassification(tokenizer, {"task": ["O", *labels]})
    (example,) = formulation.encode(0, Sentence(words, tuple(labels)), 0)
    pieces, found = tokenizer.convert_ids_to_tokens(list(example.input_ids)), {}
    for place, label in enumerate(example.labels):
        if label != -100:
            found[label] = place
    assert sorted(found) == list(range(1, len(words) + 1))
    assert tuple(found[label] for label in sorted(found)) == example.first_subwords
    assert pieces[0] == "[CLS]" and pieces[-1] == "[SEP]"
    borders = [*example.first_subwords, len(pieces) - 1]
    for word, start, stop in zip(words, borders, borders[1:], strict=False):
        assert pieces[start].startswith(FIRST[name])
        text = tokenizer.convert_tokens_to_string(pieces[start:stop]).strip()
        assert text == word or "[UNK]" in pieces[start:stop], (word, pieces[start:stop])
    assert len(pieces) > len(words) + 2, "some words have several pieces"
    running = tokenizer(" ".join(words))["input_ids"]
    assert list(example.input_ids) == running, "words are tokenized as in running text"


def test_train_evaluate_and_predict(backbone, data, tmp_path):
    from typer.testing import CliRunner

    from hyperloader.cli.commands import app

    _, folder = backbone
    training = {"steps": 2, "batch_size": 8, "eval_steps": 2, "save_steps": 2, "log_steps": 1, "report_to": "none"}
    values = {"backbone": str(folder), "tasks": str(data / "tasks.yaml"), "output": str(tmp_path / "run")}
    values |= {"training": training, "model": {"reduction_factor": 4}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    result = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml")])
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert evaluate(tmp_path / "run") == scores
    sentences = [("show", "red", "shirts"), ("don't",), ("from", "new", "york", "$1.50", "zzz")]
    run = load_run(tmp_path / "run")
    assert [len(tags) for tags in predict(run, sentences, "colours")] == [3, 1, 5]
