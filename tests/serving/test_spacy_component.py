"""The component of spaCy."""

import importlib.metadata

import pytest
from helpers import small_run

from hyperloader import Tagger
from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig

spacy = pytest.importorskip("spacy", reason="needs spaCy: pip install 'hyperloader[spacy]'")
pytest.importorskip("hyperloader.serving.spacy_component")
ODD = "to/pics <b>🎵"  # as the run has it
TEXTS = ["play silver river by carlos", "", "wake me up at six", "add  midnight garden\nto my list now"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of two tagging tasks."""
    here = tmp_path_factory.mktemp("two")
    values = small_run.write(here)
    values["tasks"] = str(here / values["tasks"])
    train(RunConfig.from_dict({**values, "output": str(here / "run")}), progress=False)
    return small_run.with_random_heads(here / "run")


def pipeline(folder, **config):
    nlp = spacy.blank("en")
    nlp.add_pipe("hyperloader", config={"run": str(folder), **config})
    return nlp


def wanted(folder, docs, task):
    """Of every document with words the spans that a tagger finds in them."""
    tagger = Tagger.from_pretrained(folder)
    return [
        [(one["label"], one["text"].split()) for one in tagger({"tokens": words}, task=task)["spans"]]
        for words in ([token.text for token in doc if not token.is_space] for doc in docs)
        if words
    ]


def found(spans):
    return [(span.label_, [token.text for token in span if not token.is_space]) for span in spans]


def test_one_task_fills_the_entities(folder):
    docs = list(pipeline(folder, tasks="music").pipe(TEXTS))
    assert [doc.text for doc in docs] == TEXTS
    expected = wanted(folder, docs, "music")
    assert any(expected) and [found(doc.ents) for doc in docs if len(doc)] == expected
    assert not docs[1].ents and not docs[0].cats and not docs[0].spans


def test_several_tasks_have_groups_and_share_batches(two, monkeypatch):
    nlp = pipeline(two)
    component = nlp.get_pipe("hyperloader")
    batches, ask = [], component.tagger.predictor.ask
    monkeypatch.setattr(component.tagger.predictor, "ask", lambda some: batches.append(len(some)) or ask(some))
    docs = list(nlp.pipe(TEXTS))
    assert batches == [3 * 2]
    for task in small_run.TASKS:
        expected = wanted(two, docs, task)
        assert any(expected) and [found(doc.spans[task]) for doc in docs if len(doc)] == expected
        assert all(len(doc.spans[task].attrs["scores"]) == len(doc.spans[task]) for doc in docs if len(doc))
    assert not any(doc.ents for doc in docs)


def test_all_tasks_that_have_a_place(folder):
    nlp = pipeline(folder)
    assert nlp.get_pipe("hyperloader").tasks == ["music", "intents", ODD]
    (doc,) = nlp.pipe([TEXTS[0]])
    assert {name.partition(": ")[0] for name in doc.cats} == {"intents", ODD} and doc.ents


def test_labels_of_a_text_are_its_categories(folder):
    (doc,) = pipeline(folder, tasks=["intents"]).pipe([TEXTS[0]])
    answer = Tagger.from_pretrained(folder)({"tokens": TEXTS[0].split()}, task="intents")
    assert doc.cats == answer["scores"] and doc.cats
    assert pipeline(folder, tasks="intents")(TEXTS[0]).cats == pytest.approx(doc.cats, abs=2e-4)


def test_what_has_no_place_in_a_document(folder):
    with pytest.raises(ValueError, match="task must tag words or label a text to have a place in a Doc, got 'length'"):
        pipeline(folder, tasks=["music", "length"])
    with pytest.raises(ValueError, match="'pairs', of pairs"):
        pipeline(folder, tasks=["pairs"])
    with pytest.raises(ValueError, match="musik"):
        pipeline(folder, tasks=["musik"])
    with pytest.raises(ValueError, match="tasks must name at least one task"):
        pipeline(folder, tasks=[])
    with pytest.raises(FileNotFoundError):
        pipeline(folder / "nothing")


def test_documents_that_fail_are_told_to_the_pipelines_handler(folder, monkeypatch):
    nlp, failed = pipeline(folder, tasks="music"), []
    monkeypatch.setattr(nlp.get_pipe("hyperloader"), "tagger", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(nlp.pipe(TEXTS))
    nlp.set_error_handler(lambda name, component, docs, error: failed.append((name, len(docs), type(error))))
    assert list(nlp.pipe(TEXTS)) == [] and failed == [("hyperloader", len(TEXTS), ZeroDivisionError)]


def test_a_pipeline_on_disk_finds_its_run_again(folder, tmp_path):
    nlp = pipeline(folder, tasks="music")
    nlp.to_disk(tmp_path / "pipeline")
    again = spacy.load(tmp_path / "pipeline")
    assert found(again(TEXTS[0]).ents) == found(nlp(TEXTS[0]).ents)


def test_spacy_finds_it_by_itself():
    points = [point for found in importlib.metadata.distributions() for point in found.entry_points]
    if "hyperloader" not in {point.name for point in points if point.group == "console_scripts"}:
        pytest.skip("hyperloader is not installed")
    (name,) = {point.value for point in points if (point.group, point.name) == ("spacy_factories", "hyperloader")}
    module, _, factory = name.partition(":")
    assert callable(getattr(importlib.import_module(module), factory))
