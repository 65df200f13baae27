"""Running text with spans by character, as annotation tools write it."""

import json

import pytest

from hyperloader.data import DataError, Sentence, load_tasks, read_split
from hyperloader.data.readers import read_file

TEXT = "Alan Turing's talk in Rome."
GOOD = Sentence(
    ("Alan", "Turing", "'", "s", "talk", "in", "Rome", "."), ("B-PER", "I-PER", "O", "O", "O", "O", "B-LOC", "O")
)
SPANS = [[0, 11, "PER"], [22, 26, "LOC"]]
OBJECTS = [{"start": start, "end": end, "label": label} for start, end, label in SPANS]
RESULTS = [
    {"value": {"start": s, "end": e, "text": TEXT[s:e], "labels": [name]}, "type": "labels", "id": "x"}
    for s, e, name in SPANS
]
TOKENS = [
    {"text": TEXT[s:e], "start": s, "end": e, "id": n}
    for n, (s, e) in enumerate([(0, 4), (5, 11), (11, 13), (13, 14), (14, 18), (19, 21), (22, 26), (26, 27)])
]
RECORDS = {
    "doccano": {"id": 1, "text": TEXT, "label": SPANS},
    "doccano, older": {"id": 1, "text": TEXT, "labels": SPANS[::-1]},
    "doccano, relations": {
        "text": TEXT,
        "entities": [{"id": 1, "start_offset": s, "end_offset": e, "label": name} for s, e, name in SPANS],
        "relations": [],
    },
    "label studio": {
        "id": 3,
        "data": {"text": TEXT},
        "annotations": [{"was_cancelled": True, "result": []}, {"result": RESULTS}],
    },
    "label studio, minimal": {"text": TEXT, "label": [one["value"] for one in RESULTS], "annotator": 1},
    "prodigy without tokens": {"text": TEXT, "spans": OBJECTS, "answer": "accept"},
}


def write(tmp_path, *records, name="a.jsonl"):
    path = tmp_path / name
    lines = [json.dumps(record) for record in records]
    path.write_text("\n".join(lines) if name.endswith("l") else "[\n" + ",\n".join(lines) + "\n]\n")
    return path


@pytest.mark.parametrize("tool", RECORDS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_every_tool_gives_the_same_sentence(tmp_path, tool, name):
    assert read_split(write(tmp_path, RECORDS[tool], RECORDS[tool], name=name)) == [GOOD, GOOD]


def test_a_record_brings_its_own_words(tmp_path):
    record = {"text": TEXT, "tokens": TOKENS, "spans": OBJECTS, "answer": "accept"}
    words = {**record, "tokens": ["Alan", "Turing's", "talk", "in", "Rome", "."], "spans": OBJECTS[1:]}
    first, second = read_split(write(tmp_path, record, words))
    assert first == Sentence(
        ("Alan", "Turing", "'s", "talk", "in", "Rome", "."), ("B-PER", "I-PER", "O", "O", "O", "B-LOC", "O")
    )
    assert (second.tokens[1], second.tags) == ("Turing's", ("O", "O", "O", "O", "B-LOC", "O"))


def test_what_has_no_answer_is_left_out_and_counted(tmp_path):
    rejected = {"text": "x", "spans": [], "answer": "reject"}
    empty = {"data": {"text": "x"}, "annotations": [{"was_cancelled": True, "result": []}]}
    bare = {"data": {"text": "x"}, "annotations": []}
    path = write(tmp_path, rejected, RECORDS["doccano"], rejected, empty, bare)
    read = read_file(path)
    assert [record.line for record in read.records] == [2]
    assert read.notes == [
        f"a.jsonl: records left out whose answer is reject: 2, the first at {path}:1",
        f"a.jsonl: records left out that have no annotation: 2, the first at {path}:4",
    ]


def test_of_several_annotations_the_first_is_read_and_relations_are_not(tmp_path):
    relation = {"type": "relation", "from_id": "x", "to_id": "y"}
    record = {"data": {"text": TEXT}, "annotations": [{"result": [*RESULTS, relation]}, {"result": []}]}
    path = write(tmp_path, record)
    assert read_split(path) == [GOOD]
    assert read_file(path).notes == [
        f"a.jsonl: records with several annotations, of which the first was read: 1, the first at {path}:1",
        f"a.jsonl: records with results other than spans, which were skipped: 1, the first at {path}:1",
    ]


def test_an_empty_list_hides_no_spans(tmp_path):
    assert read_split(write(tmp_path, {"text": TEXT, "label": [], "entities": SPANS})) == [GOOD]
    path = write(tmp_path, {"text": TEXT, "label": SPANS, "entities": SPANS[:1]})
    with pytest.raises(DataError, match=r"a\.jsonl:1: the spans may be label or entities; set columns: {spans: label}"):
        read_split(path)
    assert read_split(path, columns={"spans": "label"}) == [GOOD]


def test_offsets_of_a_browser_count_utf16(tmp_path):
    text = "\U0001f600 in Rome"
    value = {"start": 6, "end": 10, "text": "Rome", "labels": ["LOC"]}
    (sentence,) = read_split(write(tmp_path, {"text": text, "label": [value]}))
    assert sentence == Sentence(("\U0001f600", "in", "Rome"), ("O", "O", "B-LOC"))


FAULTY = [
    {"text": "a hamster", "label": [[2, 5, "x"]]},
    {"text": "to new york", "label": [[3, 11, "city"], [7, 11, "state"]]},
    {"text": "a  b", "label": [[1, 3, "x"], [3, 4, "y"]]},
]


def test_spans_that_do_not_fit_words_are_counted_and_refused(tmp_path):
    path = write(tmp_path, *FAULTY)
    with pytest.raises(DataError) as error:
        read_split(path)
    assert str(error.value).startswith(
        f"{path}:1: span [2, 5] 'ham' (x) ends or starts inside the word 'hamster'; "
        f"3 of 5 spans do not fit words (also at {path}:2, {path}:3); correct them, or set tags: repair, which widens "
    )


def test_repair_widens_keeps_the_first_and_drops_what_has_no_word(tmp_path):
    path = write(tmp_path, *FAULTY)
    assert [sentence.tags for sentence in read_split(path, tags="repair")] == [
        ("O", "B-x"),
        ("O", "B-city", "I-city"),
        ("O", "B-y"),
    ]
    (note,) = read_file(path, repair=True).notes
    assert note.startswith("a.jsonl: 3 of 5 spans do not fit words")


def test_repair_cuts_no_span_short(tmp_path):
    path = write(tmp_path, {"text": "a b c", "label": [[0, 3, "x"], [2, 5, "y"]]})
    assert read_split(path, tags="repair")[0].tags == ("B-x", "I-x", "O")


def test_a_task_may_ask_for_repair(tmp_path):
    for split in ("train", "dev", "test"):
        write(tmp_path, FAULTY[0], name=f"{split}.jsonl")
    (tmp_path / "tasks.yaml").write_text("tasks: [{name: t, path: ., tags: repair}]")
    (task,) = load_tasks(tmp_path / "tasks.yaml")
    assert task.validation == [Sentence(("a", "hamster"), ("O", "B-x"))]
    assert len(task.notes) == 3
    (tmp_path / "tasks.yaml").write_text("tasks: [{name: t, path: .}]")
    with pytest.raises(DataError, match=r"train\.jsonl:1: span \[2, 5\] 'ham' \(x\) ends or starts inside"):
        load_tasks(tmp_path / "tasks.yaml")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a b", "label": [[0, 9, "x"]]}, "label[0] must lie within the 3 characters of the text, got [0, 9]"),
        ({"text": "a b", "label": [[1, 1, "x"]]}, "must lie within"),
        ({"text": "a b", "label": [["0", 1, "x"]]}, "must start and end at whole numbers, got '0' and 1"),
        ({"text": "a b", "label": [[0, 1, "big city"]]}, "one label, text without white space, got 'big city'"),
        ({"text": "a b", "label": ["positive"]}, "must be a span as [start, end, label]"),
        ({"text": "a b", "label": [{"start": 0, "end": 1, "text": "b", "label": "x"}]}, "must be 'b', got 'a' there"),
        ({"text": "a b", "tokens": ["a", "c"], "spans": []}, "tokens[1] 'c' must follow in the text, got ' b'"),
        ({"text": " ", "label": []}, "the sentence is empty"),
        ({"text": "a b"}, "running text needs 'text' and one of label, labels, entities, spans, annotations"),
    ],
)
def test_faults_of_a_record_are_named_with_their_line(tmp_path, record, message):
    path = write(tmp_path, RECORDS["doccano"], record)
    with pytest.raises(DataError) as error:
        read_split(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert message in str(error.value)


def test_keys_of_another_name(tmp_path):
    path = write(tmp_path, {"sentence": TEXT, "ner": SPANS})
    assert read_split(path, columns={"text": "sentence", "spans": "ner"}) == [GOOD]
    path = write(tmp_path, {"words": ["a"], "ner_tags": ["B-x"]})
    assert read_split(path, columns={"tokens": "words", "tags": "ner_tags"}) == [Sentence(("a",), ("B-x",))]


def test_words_alone_need_no_spans(tmp_path):
    path = write(tmp_path, {"text": TEXT}, {"tokens": ["a"], "tags": ["X", "Y"]}, RECORDS["doccano"])
    assert [record.tokens for record in read_file(path, labelled=False).records] == [GOOD.tokens, ("a",), GOOD.tokens]


def test_an_array_names_the_line_of_each_object(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\n[{"tokens": ["a"],\n "tags": ["O"]},\n\n {"tokens": ["b"], "tags": []}]')
    with pytest.raises(DataError, match=r"a\.json:5: tokens and tags must be equally many"):
        read_split(path)
    path.write_text('{"tokens": ["a"]}')
    with pytest.raises(DataError, match="must be a JSON array of objects, got dict"):
        read_split(path)


def test_real_spans_by_character(data_folder, tmp_path):
    """MIT Restaurant, its words joined by spaces and its spans as offsets: the spans come back, word for word where the
    rule of words makes the same ones."""
    from hyperloader.data import spans

    gold = read_split(data_folder / "mit_restaurant" / "test.jsonl")
    records = []
    for sentence in gold:
        starts = [sum(len(token) + 1 for token in sentence.tokens[:place]) for place in range(len(sentence.tokens) + 1)]
        labels = [[starts[first], starts[after] - 1, name] for name, first, after in spans(sentence.tags)]
        records.append({"text": " ".join(sentence.tokens), "label": labels})
    read = read_split(write(tmp_path, *records))
    assert sum(one.tokens == two.tokens for one, two in zip(read, gold, strict=True)) > 1000
    for one, two in zip(read, gold, strict=True):
        assert [name for name, _, _ in spans(one.tags)] == [name for name, _, _ in spans(two.tags)]
        if one.tokens == two.tokens:
            assert one == two
