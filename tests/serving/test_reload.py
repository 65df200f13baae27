"""New versions of runs while requests are answered."""

import asyncio
import shutil
import threading

import pytest

BODY = {"inputs": [{"text": "play silver river by carlos", "task": "music"}, {"text": "wake me", "task": "intents"}]}


@pytest.fixture(scope="module")
def own(folder, tmp_path_factory):
    """A copy that may be changed."""
    copy = tmp_path_factory.mktemp("reload") / "run"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoint-*"))
    return copy


@pytest.fixture(scope="module")
def server(start, own):
    with start({"run": own}) as server:
        yield server


def test_a_new_version_comes_in_without_dropping_a_request(server, own):
    import torch

    from hyperloader.training.saved_run import load_run

    model = load_run(own).model
    torch.manual_seed(9)
    torch.nn.init.normal_(model.heads.heads[0].weight, 0, 0.5)
    before = server.call("POST", "/v1/predict", BODY).json["answers"]
    model.save_pretrained(own / "best")
    found, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            found.append(server.call("POST", "/v1/predict", BODY))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    done = server.call("POST", "/v1/reload", {})
    after = server.call("POST", "/v1/predict", BODY).json["answers"]
    stop.set()
    for thread in threads:
        thread.join()
    assert done.json == {"versions": {"run": 2}}
    assert after[0] != before[0]
    spans = [[[span["label"] for span in answers[0]["spans"]] for answers in (before, after)]]
    assert found and all(one.status == 200 for one in found)
    labels = [[span["label"] for span in one.json["answers"][0]["spans"]] for one in found]
    assert all(one in spans[0] for one in labels)


@pytest.mark.parametrize("damage", ["truncated", "labels", "gone"])
def test_a_damaged_one_is_refused_and_the_old_one_stays(server, own, tmp_path, damage):
    expected = server.call("POST", "/v1/predict", BODY).json
    shutil.copytree(own, tmp_path / "kept")
    try:
        if damage == "truncated":
            (path,) = (own / "best").glob("*.safetensors")
            path.write_bytes(path.read_bytes()[:-100])
        elif damage == "labels":
            (own / "labels.json").write_text("{")
        else:
            shutil.rmtree(own)
        refused = server.call("POST", "/v1/reload", {"run": "run"})
        assert (refused.status, refused.json["error"]["code"]) == (409, "refused")
        assert str(own).encode() not in refused.text and b"safetensors" not in refused.text
        assert server.call("POST", "/v1/predict", BODY).json == expected
    finally:
        shutil.rmtree(own, ignore_errors=True)
        shutil.copytree(tmp_path / "kept", own)


def test_two_runs_with_one_task_are_refused(folder, own, monkeypatch):
    """Before any weights are read."""
    from hyperloader.serving import registry
    from hyperloader.serving.registry import Registry

    monkeypatch.setattr(registry, "load_version", lambda *_: pytest.fail("it was loaded"))

    with pytest.raises(
        ValueError, match="tasks must each be of one run, got 'music' in 'a' and 'b'; serve one of the two"
    ):
        Registry({"a": folder, "b": own})


def test_a_run_that_is_none_is_refused_before_another_is_loaded(folder, own, tmp_path, monkeypatch):
    from hyperloader.serving import registry

    monkeypatch.setattr(registry, "load_version", lambda *_: pytest.fail("it was loaded"))
    shutil.copytree(own, tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "best")
    with pytest.raises(FileNotFoundError, match="best: no such file or folder; .*b must be the output of a run"):
        registry.Registry({"a": folder, "b": tmp_path / "b"})


def test_a_new_version_with_a_task_of_another_run_is_refused_before_it_is_loaded(folder, own, monkeypatch):
    from hyperloader.serving import registry

    found = registry.Registry({"a": folder})
    found.runs["b"] = registry.Version("b", own, found.runs["a"].predictor)
    monkeypatch.setattr(registry, "load_version", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match="got 'music' in 'a' and 'b'"):
        asyncio.run(found.reload("b"))
