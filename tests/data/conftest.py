"""Tokenizers that several tests of hyperloader.data use."""

import contextlib
import functools
import json
import string

import pytest

with contextlib.suppress(ModuleNotFoundError):  # the tests that need it are then skipped
    from hypothesis import settings

    settings.register_profile("data", deadline=None)  # the first example of a test may have to import something slow
    settings.load_profile("data")


@pytest.fixture(scope="session")
def t5_tokenizer(data_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(data_folder / "t5_tokenizer")


@pytest.fixture(scope="session")
def letters_tokenizer():
    """A tokenizer with sentinels in which every letter is a token: long words, short windows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["▁", *string.ascii_letters, *string.digits, *"._/-"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -1.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.add_tokens([f"<extra_id_{number}>" for number in range(100)], special_tokens=True)
    return fast


@pytest.fixture(scope="session")
def make_tokenizer():
    """Small tokenizers by kind: `wordpiece` (BERT), `bytes` (RoBERTa), `bytes-without-space`, `metaspace`."""
    return functools.cache(train_tokenizer)


def train_tokenizer(kind: str):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, RobertaTokenizerFast

    text = ["show me the flights from denver to boston tomorrow morning", "play a song by the flights"] * 4
    if kind.startswith("bytes"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(text, trainer)
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        return RobertaTokenizerFast(
            vocab=tokenizer.get_vocab(), merges=[tuple(pair) for pair in merges], add_prefix_space=kind == "bytes"
        )
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
