import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperloader.data import DataError, Sentence, parse_json_line, read_split

GOOD = [Sentence(("to", "new", "york"), ("O", "B-city", "I-city")), Sentence(("hello",), ("O",))]
JSON = '{"tokens": ["to", "new", "york"], "tags": ["O", "B-city", "I-city"], "id": 1}\n'


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSON + '\n{"tokens": ["hello"], "tags": ["O"]}'),
        ("a.jsonl", "\ufeff" + JSON + '{"tokens": ["hello"], "tags": ["O"]}\r\n'),
        ("a.conll", "to O\nnew B-city\nyork I-city\n\n\nhello O"),
        ("a.conll", "-DOCSTART- -X- O\n\n# id 7\nto\tTO\tO\nnew\tJJ\tB-city\nyork\tNN\tI-city\n\nhello\tUH\tO\n\n"),
        ("a.conll", "#begin document (x)\nto  O\r\nnew B-city\r\nyork I-city\r\n \r\nhello O\r\n#end document\r\n"),
        ("a.csv", "tokens,tags\nto new york,O B-city I-city\nhello,O\n"),
        ("a.csv", 'id,tags,tokens\n1,"O B-city\nI-city","to new york"\n\n2,O,hello\n'),
        ("a.csv", "sentence,token,tag\n1,to,O\n1,new,B-city\n1,york,I-city\n2,hello,O\n"),
    ],
)
def test_every_format_reads_the_same_sentences(tmp_path, name, content):
    assert read_split(write(tmp_path, name, content)) == GOOD


def test_number_sign_and_comma_can_be_words(tmp_path):
    assert read_split(write(tmp_path, "a.conll", "# B-sign\n, O\n#x O\n"))[0].tokens == ("#", ",", "#x")
    assert read_split(write(tmp_path, "a.csv", 'tokens,tags\n"a , """,O O O\n'))[0].tokens == ("a", ",", '"')


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"tokens": ["a\x0bb"], "tags": ["O"]}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: "):
        read_split(path)
    line = json.dumps({"tokens": ["a"], "tags": ["O"], "note": "\u2028\x85"}, ensure_ascii=False)
    assert len(read_split(write(tmp_path, "b.jsonl", line + "\n" + line))) == 2


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("a.jsonl", JSON + '{"tokens": ["a"], "tags": []}', 2, "got 1 tokens and 0 tags"),
        ("a.jsonl", JSON + '{"tokens": [], "tags": []}', 2, "empty"),
        ("a.jsonl", JSON + "\n" + '{"tokens": ["a"], "tags": ["I-x"]}', 3, "write 'B-x'"),
        ("a.jsonl", JSON + '{"tokens": ["a"]', 2, "invalid JSON"),
        ("a.jsonl", JSON + "[" * 100_000, 2, "invalid JSON"),
        ("a.jsonl", JSON + '{"tokens": ["a"], "tags": ["O"], "tags": ["B-x"]}', 2, "'tags' must stand once, got it 2"),
        ("a.jsonl", JSON + "[]", 2, "must be a JSON object with tokens and tags, got list"),
        ("a.jsonl", '{"tokens": ["a"], "ner_tags": ["O"]}', 1, "no 'tags', it has 'tokens', 'ner_tags'"),
        ("a.jsonl", '{"tokens": ["a"], "tags": null}', 1, "tags must be a list of text, got null"),
        ("a.jsonl", JSON.encode() * 2 + b'{"tokens": ["\xff"]}', 3, "byte 0xff is not UTF-8"),
        ("a.conll", b"a O\n\xe4 O\n", 2, "byte 0xe4 is not UTF-8"),
        ("a.conll", "a NN O\nb O\n", 2, "has 2 columns where the first has 3"),
        ("a.conll", "a\n", 1, "a token and a tag"),
        ("a.conll", "a B-x\n\nb O\nc I-x\nd O\n", 4, "tag 2 'I-x' starts a span"),
        ("a.conll", "a O\n\nb O\n#tag X-y\n", 4, "is no BIO tag"),
        ("a.conll", "a\tO\n\tO\n", 2, "token 2 is empty"),
        ("a.conll", "a b\tO\n", 1, "holds white space"),
        ("a.csv", "tokens,tags\na,O\na,b,O\n", 3, "has 3 fields where the header has 2"),
        ("a.csv", "tokens,tags\na b,O\n", 2, "got 2 tokens and 1 tags"),
        ("a.csv", "tokens,tags\n,\n", 2, "empty"),
        ("a.csv", 'tokens,tags\n"a,O\n', 2, "invalid CSV"),
        ("a.csv", "words,tags\na,O\n", 1, "got words,tags"),
        ("a.csv", "tokens,tags,tags\na,O,O\n", 1, "each once"),
        ("a.csv", "sentence,token,tag\n1,a,B-x\n2,b,O\n2,c,I-x\n", 4, "tag 2 'I-x'"),
        ("a.csv", "sentence,token,tag\n1,a,O\n2,b,O\n1,c,O\n", 4, "comes a second time"),
        ("a.csv", 'tokens,tags\n"a\nb",O B-x\nc,I-x\n', 4, "starts a span"),
        ("a.jsonl", "", 1, "no sentence"),
        ("a.jsonl", "\n\n", 1, "no sentence"),
        ("a.conll", "-DOCSTART- O\n", 1, "no sentence"),
        ("a.csv", "", 1, "no sentence"),
        ("a.csv", "tokens,tags\n", 1, "no sentence"),
    ],
)
def test_every_fault_is_named_with_file_and_line(tmp_path, name, content, line, message):
    path = write(tmp_path, name, content)
    with pytest.raises(DataError) as error:
        read_split(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_split(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_split(tmp_path / "b.jsonl")
    with pytest.raises(DataError, match=r"one of .jsonl, .conll, .csv, .*, got '.doc'"):
        read_split(tmp_path / "a.doc")


def test_a_line_without_tags_only_where_that_is_meant():
    assert parse_json_line('{"tokens": ["a"]}', "x:1", labelled=False) == Sentence(("a",), ("O",))
    for tags in (["S-x"], ["a", "b"], 3, None):  # not asked for, so not looked at
        line = json.dumps({"tokens": ["a"], "tags": tags})
        assert parse_json_line(line, "x:1", labelled=False) == Sentence(("a",), ("O",))
    with pytest.raises(DataError, match=r"x:1: .*no 'tags'"):
        parse_json_line('{"tokens": ["a"]}', "x:1")


@given(st.binary(max_size=60), st.sampled_from([".jsonl", ".conll", ".csv", ".json"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        sentences = read_split(path)
        assert sentences
        assert all(sentence.tokens for sentence in sentences)


def test_a_number_of_too_many_digits_is_named(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"tokens": ["a"], "tags": ["O"], "n": ' + "9" * 6000 + "}\n")
    with pytest.raises(DataError, match=r"a.jsonl:1: invalid JSON \(.* has 6000 digits\); write one"):
        read_split(path)


def test_an_unknown_scheme_is_refused(tmp_path):
    path = write(tmp_path, "a.jsonl", JSON)
    with pytest.raises(ValueError, match="tags must be one of bio, .* repair, got 'bioes'; did you mean"):
        read_split(path, tags="bioes")
