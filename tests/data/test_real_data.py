"""The seven real data sets: counts as published with them, and every sentence through both formulations."""

import pytest

from hyperloader.data import MultiTaskBatches, TextToText, TokenClassification, load_tasks, report_rows, subset

# sentences, spans, types (train / validation / test), types in all, longest sentence, repeats
FACTS = {
    "mit_movie_trivia": ((7035, 781, 1953), (20695, 2335, 5686), (12, 12, 12), 12, 76, (0, 0, 0)),
    "mit_movie": ((8798, 977, 2443), (19129, 2166, 5339), (12, 12, 12), 12, 47, (37, 6, 21)),
    "mit_restaurant": ((6894, 766, 1521), (13814, 1549, 3151), (8, 8, 8), 8, 35, (1, 0, 0)),
    "atis": ((4478, 500, 893), (14851, 1709, 2837), (79, 67, 69), 83, 46, (289, 52, 13)),
    "snips": ((13084, 700, 700), (33958, 1794, 1790), (39, 39, 39), 39, 35, (225, 15, 26)),
    "mtod": ((30521, 4181, 8621), (51720, 6999, 14692), (15, 12, 13), 16, 24, (7534, 1356, 2811)),
    "mtop": ((15667, 2235, 4386), (26797, 3904, 7551), (74, 63, 71), 75, 32, (33, 8, 15)),
}
UNSEEN = {
    "atis": "test has types that train never shows (spans): booking_class (1), compartment (1), flight (1), "
    "stoploc.airport_code (1)",
    "mtod": "validation has types that train never shows (spans): demonstrative_reference (1)",
    "mtop": "test has types that train never shows (spans): RECIPES_TIME_PREPARATION (1)",
}


@pytest.fixture(scope="module")
def tasks(data_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "tasks.yaml"
    lines = [f"  - {{name: {name}, path: '${{HYPERLOADER_DATA}}/{name}'}}" for name in FACTS]
    path.write_text("\n".join(["tasks:", *lines]))
    return load_tasks(path)


def test_counts(tasks):
    rows = report_rows(tasks)
    for task in tasks:
        mine = [row for row in rows if row["task"] == task.name]
        columns = {
            key: tuple(row[key] for row in mine) for key in ("sentences", "spans", "types", "repeats", "longest")
        }
        sentences, spans, types, all_types, longest, repeats = FACTS[task.name]
        assert columns["sentences"] == sentences
        assert columns["spans"] == spans
        assert columns["types"] == types
        assert columns["repeats"] == repeats
        assert max(columns["longest"]) == longest
        assert len(task.labels) == 1 + 2 * all_types


def test_types_that_training_never_shows_are_named(tasks):
    for task in tasks:
        assert len(task.warnings) == (task.name in UNSEEN)
        if task.warnings:
            assert task.warnings[0].startswith(f"{task.name}: {UNSEEN[task.name]};")


def test_no_word_is_lost_as_text(tasks, t5_tokenizer):
    formulation = TextToText(t5_tokenizer, [task.name for task in tasks])
    for split, use_tags in (("validation", True), ("test", False)):
        sentences = {task.name: getattr(task, split) for task in tasks}
        for name, examples in formulation.encode_all(sentences, use_tags=use_tags).items():
            decoded = formulation.decode(examples, [example.labels for example in examples])
            assert decoded == [list(sentence.tags) for sentence in sentences[name]]
    assert formulation.report["mit_movie_trivia"].split_sentences == 3
    assert sum(report.cut_words for report in formulation.report.values()) == 0


def test_no_word_is_lost_as_tokens(tasks, make_tokenizer):
    formulation = TokenClassification(make_tokenizer("bytes"), {task.name: task.labels for task in tasks})
    sentences = {task.name: task.test for task in tasks if task.name in ("mit_movie_trivia", "atis", "snips")}
    for name, examples in formulation.encode_all(sentences).items():
        decoded = formulation.decode(examples, [example.labels for example in examples])
        assert decoded == [list(sentence.tags) for sentence in sentences[name]]
    assert formulation.report["mit_movie_trivia"].split_sentences > 100


def test_low_resource_sizes(tasks):
    sizes = {
        fraction: sum(len(subset(task.train, fraction, 0, task.name)) for task in tasks) for fraction in (0.1, 0.5)
    }
    assert sizes == {0.1: 8648, 0.5: 43240}


def test_an_epoch_of_the_real_sizes(tasks):
    sizes = [len(task.train) for task in tasks]
    sampler = MultiTaskBatches(sizes, 128, 65_536, start_step=65_530)
    assert all(index < sizes[task] for batch in sampler for task, index in batch)
    assert sampler.probabilities[5] == pytest.approx(max(sampler.probabilities))
    assert 0.12 < min(sampler.probabilities) < max(sampler.probabilities) < 0.17


def test_intents_and_pairs(data_folder, tmp_path):
    """Counts and labels that training never shows, as published with them."""
    facts = {
        "intents/atis": ((4478, 500, 893), (21, 16, 20), 26),
        "intents/snips": ((13084, 700, 700), (7, 7, 7), 7),
        "intents/mtod": ((30521, 4181, 8621), (12, 12, 12), 12),
        "intents/mtop": ((15667, 2235, 4386), (113, 88, 102), 113),
        "pairs/mrpc": ((3669, 407, 1725), (2, 2, 2), 2),
    }
    for folder in (*facts, "pairs/stsb"):
        if not (data_folder / folder).is_dir():
            pytest.skip(f"there is no {folder} in HYPERLOADER_DATA")
    lines = [f"  - {{name: {name}, kind: classification, path: '{data_folder / name}'}}" for name in facts]
    lines.append(f"  - {{name: similar, kind: regression, path: '{data_folder / 'pairs/stsb'}'}}")
    (tmp_path / "tasks.yaml").write_text("\n".join(["tasks:", *lines]))
    *tasks, similar = load_tasks(tmp_path / "tasks.yaml")
    rows = report_rows(tasks)
    for task in tasks:
        mine = [row for row in rows if row["task"] == task.name]
        found = tuple(tuple(row[key] for row in mine) for key in ("sentences", "types"))
        assert (*found, len(task.labels)) == facts[task.name]
        assert task.kind.pair == task.name.startswith("pairs")
        assert bool(task.warnings) == (task.name == "intents/atis")
    assert sum(text.count("atis_day_name (2)") for text in tasks[0].warnings) == 1
    assert [len(split) for split in (similar.train, similar.validation, similar.test)] == [5749, 1500, 1379]
    kind = similar.kind.standardised(one.label for one in similar.train)
    assert kind.pair and kind.mean == pytest.approx(2.70, abs=0.005)
