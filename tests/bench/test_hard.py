"""The mixture that is hard to begin with: neighbours joined, few types of spans kept."""

import json

from bench.study import hard


def test_neighbours_are_joined_and_other_types_lose_their_labels():
    tags = [["O", "B-x"], ["B-y", "I-y"], ["B-x", "I-x"], ["O"], ["B-x"]]
    sentences = [{"tokens": [f"{i}{k}" for k in range(len(own))], "tags": own} for i, own in enumerate(tags)]
    (one,) = hard.joined(sentences, ("x",))  # the fifth has no neighbours
    assert one["tokens"] == ["00", "01", "10", "11", "20", "21", "30"]
    assert one["tags"] == ["O", "B-x", "O", "O", "B-x", "I-x", "O"]


def test_every_set_and_split_is_written(tmp_path, monkeypatch):
    line = json.dumps({"tokens": ["a"], "tags": ["B-Hours"]}) + "\n"
    for name in hard.KEPT:
        for split in hard.SIZES:
            path = tmp_path / "data" / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(line * 9, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["hard", str(tmp_path / "out"), "--data", str(tmp_path / "data")])
    hard.main()
    found = (tmp_path / "out" / "mit_restaurant" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(one)["tags"] for one in found] == [["B-Hours"] * 4] * 2
    assert "B-" not in (tmp_path / "out" / "atis" / "train.jsonl").read_text(encoding="utf-8")
