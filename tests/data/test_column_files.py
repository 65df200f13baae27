"""Columns as users have them: numbers, comments, line ends, invisible characters, other places of the tags."""

import pytest

from hyperloader.data import DataError, Sentence, read_split
from hyperloader.data.readers import READERS, read_file

GOOD = [Sentence(("Alan", "Turing", "spoke"), ("B-PER", "I-PER", "O")), Sentence(("Hello", "Rome"), ("O", "B-LOC"))]
PLAIN = "Alan B-PER\nTuring I-PER\nspoke O\n\nHello O\nRome B-LOC\n"


def write(tmp_path, content, name="a.conll"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("suffix", [suffix for suffix in READERS if suffix not in (".jsonl", ".json", ".csv")])
def test_every_name_of_a_file_of_columns_is_read(tmp_path, suffix):
    assert read_split(write(tmp_path, PLAIN, f"a{suffix}")) == GOOD
    assert read_split(write(tmp_path, PLAIN, f"a{suffix.upper()}")) == GOOD


def test_the_suffix_may_be_the_split(tmp_path):
    assert read_split(write(tmp_path, PLAIN, "eng.testa")) == GOOD


NUMBERS = "column 1 counts the words and was not read as the words; if they stand there, set columns: {tokens: 1}"


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("0 Alan B-PER\n1 Turing I-PER\n2 spoke O\n\n0 Hello O\n1 Rome B-LOC\n", NUMBERS),
        ("1\tAlan\tN\tB-PER\n2\tTuring\tN\tI-PER\n3\tspoke\tV\tO\n\n1\tHello\tX\tO\n2\tRome\tN\tB-LOC\n", NUMBERS),
        (
            "0 Alan B-PER\n1 Turing I-PER\n2 spoke O\n\n3 Hello O\n4 Rome B-LOC\n",
            NUMBERS.replace("the words and", "the words of the file and"),
        ),
        (
            "1 Alan B-PER\n1 Turing I-PER\n1 spoke O\n\n2 Hello O\n2 Rome B-LOC\n",
            NUMBERS.replace("the words and", "the sentences and"),
        ),
        ("Alan B-PER x\nTuring I-PER y\nspoke O z\n\nHello O -\nRome B-LOC -\n", "the last column holds no tags"),
        ("B-PER\tAlan\nI-PER\tTuring\nO\tspoke\n\nO\tHello\nB-LOC\tRome\n", "column 1 was read as the tags"),
        ("token\tner_tags\nAlan\tB-PER\nTuring\tI-PER\nspoke\tO\n\nHello\tO\nRome\tB-LOC\n", "read as a header"),
        ("-DOCSTART- -X-\nAlan B-PER\nTuring I-PER\nspoke O\n-DOCSTART- -X-\nHello O\nRome B-LOC\n", None),
        (PLAIN.replace("\n", "\r"), "its lines end with carriage returns (CR), which were read as line ends"),
        (PLAIN.replace("\n", "\r\n"), None),
        (PLAIN.replace("\n", "\r\r\n"), None),
        ("\ufeff" + PLAIN, None),
        (PLAIN.replace("Hello", "\ufeffHello"), "1 byte-order marks (U+FEFF) at the start of a line were dropped"),
        ("# a title\n#comment\n# this is not B-PER\n" + PLAIN, "comment lines (#) skipped: 3"),
        (PLAIN.replace("Hello", "# vitamin B-12\nHello"), "comment lines (#) skipped: 1"),
        (PLAIN.replace("spoke", "# a remark\nspoke"), "comment lines (#) skipped: 1"),
        (PLAIN.replace("Alan B", "Alan\u00a0B"), None),
    ],
)
def test_what_can_be_read_is_read_and_noted(tmp_path, content, note):
    path = write(tmp_path, content)
    assert read_split(path) == GOOD
    notes = read_file(path).notes
    if note is None:
        assert notes == []
    else:
        assert len(notes) == 1
        assert notes[0].startswith("a.conll: ")
        assert note in notes[0]


CONLLU = """# newdoc id = x
# sent_id = 1
# text = Don't go to vitamin B-12
1-2\tDon't\t_\tO
1\tDo\tAUX\tO
2\tn't\tPART\tO
3\tgo\tVERB\tO
3.1\t_\t_\tO

# text = Rome O
1\tRome\tPROPN\tB-LOC
2\t#1\tNOUN\tO
"""


def test_conllu_has_comments_ranges_and_empty_nodes(tmp_path):
    path = write(tmp_path, CONLLU, "a.conllu")
    assert [sentence.tokens for sentence in read_split(path)] == [("Do", "n't", "go"), ("Rome", "#1")]
    notes = read_file(path).notes
    assert [note.partition("; ")[0] for note in notes] == [
        "a.conllu: column 1 counts the words and was not read as the words",
        "a.conllu: comment lines (#) skipped: 4",
        "a.conllu: lines numbered as a range (3-4) or an empty node (3.1) skipped: 2",
    ]


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("Alan x B-PER\nTuring x I-PER\nspoke x O\n\nHello x O\nRome x B-LOC\n", {"tokens": 1, "tags": 3}),
        ("B-PER x Alan\nI-PER x Turing\nO x spoke\n\nO x Hello\nB-LOC x Rome\n", {"tokens": -1, "tags": 1}),
        (
            "i\tw\tt\n1\tAlan\tB-PER\n1\tTuring\tI-PER\n1\tspoke\tO\n\n5\tHello\tO\n5\tRome\tB-LOC",
            {"tokens": "w", "tags": "t"},
        ),
    ],
)
def test_columns_by_number_or_by_name(tmp_path, content, columns):
    assert read_split(write(tmp_path, content), columns=columns) == GOOD


def test_a_column_of_one_value_throughout_each_sentence_holds_no_words(tmp_path):
    for name, other in (("s1", "s2"), ("doc7", "doc7"), ("12", "99")):
        read = read_file(
            write(tmp_path, f"{name} Alan B-PER\n{name} Turing I-PER\n\n{other} in O\n{other} Rome B-LOC\n")
        )
        assert [record.tokens for record in read.records] == [("Alan", "Turing"), ("in", "Rome")]
        assert "column 1 holds one value throughout each sentence and was not read as the words" in read.notes[0]
    read = read_file(
        write(tmp_path, "bc/cnn 0 0 Alan B-PER\nbc/cnn 0 1 Turing I-PER\n\nbc/abc 0 0 in O\nbc/abc 0 1 it O\n")
    )
    assert [record.tokens for record in read.records] == [("Alan", "Turing"), ("in", "it")]


@pytest.mark.parametrize(
    "numbers", ["0001 0002 0001", "[0] [1] [0]", "1. 2. 1.", "1-1 1-2 2-1", "5 6 7", "0 2 0", "1 2 2", "_1 _2 _1"]
)
def test_a_first_column_of_numbers_that_count_in_no_known_way_is_refused(tmp_path, numbers):
    one, two, three = numbers.split()
    path = write(tmp_path, f"{one} Alan B-PER\n{two} Turing I-PER\n\n{three} Rome B-LOC\n")
    with pytest.raises(
        DataError, match=r"a.conll:1: column 1 holds numbers alone, .*; set columns: {tokens: 2}, or {to"
    ):
        read_split(path)
    assert read_split(path, columns={"tokens": 2})[0].tokens == ("Alan", "Turing")
    assert read_split(path, columns={"tokens": 1})[0].tokens == (one, two)


def test_numbers_are_words_where_columns_say_so(tmp_path):
    path = write(tmp_path, "1 CD B-n\n2 CD O\n\n1 CD O\n")
    assert [sentence.tokens for sentence in read_split(path, columns={"tokens": 1})] == [("1", "2"), ("1",)]


@pytest.mark.parametrize(
    ("content", "columns", "line", "message"),
    [
        ("a O\nb O\rc O\nd O\n", None, 2, "the line has 4 columns where the first has 2"),
        ("a O\nnew\u00a0york O\n", None, 2, "token 2 'new\\xa0york' holds white space (U+00A0 no-break space)"),
        ("a\u2028b O\n", None, 1, "(U+2028 line separator)"),
        ("a O\nb\u00a0 x O\n", None, 2, "3 columns where the first has 2 (it holds U+00A0 no-break space)"),
        (
            "a b\nc d\n",
            None,
            1,
            "the last column must hold tags such as O, B-<type> and I-<type>, got 'b'; set columns",
        ),
        ("a O\n", {"tags": 3}, 1, "columns must be from 1 to 2, or from -1 to -2, got 3"),
        ("a O\n", {"tokens": 2}, 1, "columns must name two columns, got 2 for tokens and for tags"),
        ("w t\na O\n", {"tags": "tag"}, 1, "the first line must name the column 'tag' once, got w, t"),
        ("1 a O\n2 b O\n\n" * 20 + "7 a O\n8 b O\n", None, 61, "counts the words of 20 of 21 sentences, but not of"),
        ("a O\n\nb O\n#tag X-y\n", None, 4, "'X-y' is no BIO tag, and the line is no comment for certain"),
        ("a O\nb O\rc O\n", None, 2, "4 columns where the first has 2 (it holds U+000D carriage return)"),
        (b"\xff\xfea\x00", None, 1, "byte 0xff is not UTF-8 (it looks like UTF-16); save the file as UTF-8"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path, content, columns, line, message):
    path = write(tmp_path, content)
    with pytest.raises(DataError) as error:
        read_split(path, columns=columns)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert message in str(error.value)


def test_invisible_characters_in_a_word_stay_and_are_noted(tmp_path):
    path = write(tmp_path, "a\u200bb O\nc\ufeff O\nمی\u200cخواهم O\n")
    read = read_file(path)
    assert read.records[0].tokens == ("a\u200bb", "c\ufeff", "می\u200cخواهم")
    assert read.notes == [
        f"a.conll: 2 words hold characters that cannot be seen (U+200B zero width space, U+FEFF zero width no-break "
        f"space), the first at {path}:1; they stay"
    ]


def test_a_second_column_of_tags_is_noted(tmp_path):
    path = write(tmp_path, "#\thttp://x\t[2009]\n1\tAlan\tB-PER\tO\n2\tTuring\tI-PER\tO\n3\tspoke\tO\tB-V\n")
    assert read_split(path)[0].tags == ("O", "O", "B-V")
    assert (
        "the last column was read as the tags; column 3 holds tags too: columns: {tags: 3}" in read_file(path).notes[0]
    )
    assert read_split(path, columns={"tags": 3})[0] == GOOD[0]


def test_words_alone_need_no_tags(tmp_path):
    for content in (
        PLAIN,
        "0 Alan city\n1 Turing city\n2 spoke city\n\n0 Hello x\n1 Rome y\n",
        "Alan\nTuring\nspoke\n\nHello\nRome",
    ):
        records = read_file(write(tmp_path, content), labelled=False).records
        assert [record.tokens for record in records] == [sentence.tokens for sentence in GOOD]
        assert {record.tags for record in records} == {()}
    assert [record.line for record in records] == [1, 5]
    assert records[0].lines == (1, 2, 3)


def test_a_csv_may_name_its_columns_and_leave_a_sentence_open(tmp_path):
    path = write(
        tmp_path,
        "Sentence #,Word,POS,Tag\nSentence: 1,Alan,N,B-PER\n,Turing,N,I-PER\n,spoke,V,O\n"
        "Sentence: 2,Hello,X,O\n,Rome,N,B-LOC\n",
        "a.csv",
    )
    assert read_split(path, columns={"sentence": "Sentence #", "tokens": "Word", "tags": "Tag"}) == GOOD
    path = write(tmp_path, "id,text,slots\n1,Alan Turing spoke,B-PER I-PER O\n2,Hello Rome,O B-LOC\n", "b.csv")
    assert read_split(path, columns={"tokens": "text", "tags": "slots"}) == GOOD
    assert [one.tokens for one in read_file(path, columns={"tokens": "text"}, labelled=False).records] == [
        one.tokens for one in GOOD
    ]
    with pytest.raises(DataError, match="the header must name text,tag.* or .*, each once, got id,text,slots; correct"):
        read_split(path, columns={"tokens": "text"})
