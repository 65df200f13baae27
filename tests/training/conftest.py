"""Tiny random backbones with tokenizers of their own, and two tasks that they can learn."""

import functools
import json
import random

import pytest
import torch

COLOURS = ["red", "green", "blue", "dark red", "light blue"]
PLACES = ["rome", "oslo", "new york", "san jose"]
FILLERS = ["show", "me", "the", "a", "to", "from", "flights", "shirts", "please"]
WORDS = sorted({word for text in [*COLOURS, *PLACES] for word in text.split()} | set(FILLERS))


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order, whatever machine this is."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sentences(task: str, count: int, seed: int) -> list[dict]:
    """In ``colours`` the colours are spans, in ``places`` the places; both kinds stand in every sentence."""
    draw, found = random.Random(f"{task} {seed}"), []
    for _ in range(count):
        tokens, tags = [], []
        for kind, text in (
            ("O", draw.choice(FILLERS)),
            ("colour", draw.choice(COLOURS)),
            ("O", draw.choice(FILLERS)),
            ("place", draw.choice(PLACES)),
        ):
            words = text.split()
            tokens += words
            spans = [f"B-{kind}"] + [f"I-{kind}"] * (len(words) - 1)
            tags += spans if f"{kind}s" == task else ["O"] * len(words)
        found.append({"tokens": tokens, "tags": tags})
    return found


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with a task file and the two tasks."""
    folder = tmp_path_factory.mktemp("data")
    for task, size in (("colours", 60), ("places", 40)):
        (folder / task).mkdir()
        for seed, (split, count) in enumerate((("train", size), ("validation", 12), ("test", 20))):
            lines = [json.dumps(one) for one in sentences(task, count, seed)]
            (folder / task / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "tasks.yaml").write_text("tasks:\n- {name: colours, path: colours}\n- {name: places, path: places}\n")
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A folder with a BERT of width 32 and a WordPiece tokenizer."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def t5(tmp_path_factory):
    """A folder with a T5 of width 32 and a word-level tokenizer with twenty sentinels."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    sentinels = [f"<extra_id_{number}>" for number in range(20)]
    words = ["<pad>", "</s>", "<unk>", "O", "I", "colour", "place", *WORDS, *sentinels]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=sentinels,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(words),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def run_config(data, bert, folder, **changes):
    """The RunConfig of a short training of the tiny BERT in ``folder/run``, with changes."""
    from hyperloader.training.run_config import RunConfig

    training = {"steps": 6, "batch_size": 8, "eval_steps": 3, "save_steps": 3, "log_steps": 1, "report_to": "none"}
    values = {"backbone": str(bert), "tasks": str(data / "tasks.yaml"), "output": str(folder / "run"), **changes}
    values["training"] = training | changes.get("training", {})
    if values.get("method", "hyperloader") in ("hyperloader", "hyperformer++", "adapter"):
        values.setdefault("model", {"reduction_factor": 4})
    return RunConfig.from_dict(values)


@pytest.fixture
def settings(data, bert, tmp_path):
    """Builds a RunConfig as ``run_config`` does."""
    return functools.partial(run_config, data, bert, tmp_path)


@pytest.fixture(scope="session")
def finished(data, bert, tmp_path_factory):
    """The RunConfig of a finished training by the method ``full``, whose folder is only read."""
    from hyperloader.training.run import train

    config = run_config(data, bert, tmp_path_factory.mktemp("finished"), method="full")
    train(config, progress=False)
    return config
