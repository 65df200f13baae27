"""Every kind of task in one run, by the commands: train, resume, evaluate, inspect, predict."""

import json
import subprocess
import sys

import pytest
import yaml
from helpers import kinds_run
from huggingface_hub import ModelCard

from hyperloader.training.headlines import headline
from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig
from hyperloader.training.saved_run import evaluate, load_run, predict

TASKS = ["music", *kinds_run.KINDS]
STEPS = 60


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    values = kinds_run.write(folder)
    values["training"] |= {"steps": STEPS, "eval_steps": STEPS // 2, "save_steps": STEPS // 2, "batch_size": 16}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**values, "output": "run"}))
    return path


@pytest.fixture(scope="module")
def trained(call, config_file):
    result = call("train", config_file)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(trained, config_file):
    return config_file.parent / "run"


@pytest.fixture(scope="module")
def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_every_task_has_the_scores_of_its_kind(metrics, trained):
    scores = metrics["test"]["tasks"]
    assert list(scores) == TASKS
    assert {task: next(iter(one)) for task, one in scores.items()} == {
        "music": "f1", "intents": "accuracy", "topics": "accuracy", "length": "pearson", "pairs": "accuracy"
    }  # fmt: skip
    heads = [
        scores[task][key] for task, key in zip(TASKS, ("f1", *["accuracy"] * 2, "pearson", "accuracy"), strict=True)
    ]
    assert metrics["test"]["mean_score"] == pytest.approx(sum(heads) / 5)
    assert "mean_f1" not in metrics["test"]
    assert [set(point) for point in metrics["learning_curve"]] == [{"step", "train_loss", "mean_score"}] * 2
    assert "mean score" in trained.stdout
    assert "Test scores by task (the score of each task's kind)" in trained.stdout


def test_its_card_has_every_kind(folder, metrics):
    card, scores = ModelCard.load(folder / "README.md"), metrics["test"]["tasks"]
    assert "# music, intents, topics and 2 more\n" in card.text
    assert "| topics | multi-label | long, music | 80 | 20 | 20 |" in card.text
    assert "| length | regression | value | 80 | 20 | 20 |" in card.text
    found = {one.dataset_name: (one.task_type, one.metric_type, one.metric_value) for one in card.data.eval_results}
    assert found["length"] == ("text-classification", "pearson", scores["length"]["pearson"])
    assert found["music"] == ("token-classification", "f1", scores["music"]["f1"])
    assert "| music | tagging |" in (folder / "best" / "README.md").read_text()


def test_it_learns(metrics):
    assert metrics["test"]["tasks"]["length"]["pearson"] > 0.5


def test_another_process_evaluates_to_the_same_numbers(folder, metrics, call):
    code = (
        "import json, sys; from hyperloader.training.saved_run import evaluate; "
        "print(json.dumps(evaluate(sys.argv[1])))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == metrics["test"]
    table = call("evaluate", folder).stdout
    assert "Pearson" in table and "span F1" in table and "Matthews" in table
    assert "micro-F1 over spans" in call("evaluate", folder, "--task", "music").stdout


def test_a_resumed_run_is_the_same_to_the_bit(config_file, folder, metrics, tmp_path):
    """Stopped after its checkpoint of half the steps."""
    config = RunConfig.from_dict({**RunConfig.from_yaml(config_file).to_dict(), "output": str(tmp_path / "again")})
    from hyperloader.training import trainer

    class Stop(Exception):
        pass

    def stop(self, model, inputs, count=None, original=trainer.MultiTaskTrainer.training_step):
        if self.state.global_step >= STEPS // 2:
            raise Stop
        return original(self, model, inputs, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.MultiTaskTrainer, "training_step", stop)
        with pytest.raises(Stop):
            train(config, progress=False)
    again = train(config, resume=True, progress=False)
    for key in ("test", "validation", "learning_curve"):
        assert again[key] == metrics[key]
    best = (tmp_path / "again" / "best" / "model.safetensors").read_bytes()
    assert best == (folder / "best" / "model.safetensors").read_bytes()


def answers(call, folder, task, text, *options):
    result = call("predict", folder, "--task", task, *options, input=text)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_predict_labels_a_text(call, folder, metrics):
    text = (folder.parent / "data" / "intents" / "test.jsonl").read_text()
    gold = [json.loads(line) for line in text.splitlines()]
    found = answers(call, folder, "intents", text)
    for number, (one, given) in enumerate(zip(found, gold, strict=True), 1):
        assert (one["line"], one["task"], one["text"], one["id"]) == (number, "intents", given["text"], given["id"])
        assert next(iter(one["scores"])) == one["label"] and one["scores"][one["label"]] == one["score"] >= 0.5
        assert sum(one["scores"].values()) == pytest.approx(1, abs=1e-3)
        assert one.get("input", {"label": one["label"]})["label"] == given["label"]
    right = sum(one["label"] == given["label"] for one, given in zip(found, gold, strict=True))
    assert right / len(gold) == metrics["test"]["tasks"]["intents"]["accuracy"]
    empty, plain = answers(call, folder, "intents", f"\n{gold[0]['text']}\n")
    assert empty == {"line": 1, "task": "intents", "text": "", "label": None, "score": None, "scores": None}
    assert (plain["label"], plain["score"]) == (found[0]["label"], found[0]["score"])
    words = json.dumps({"tokens": gold[0]["text"].split()})
    assert answers(call, folder, "intents", words)[0]["score"] == found[0]["score"]


def test_predict_gives_values_in_the_units_of_the_data(call, folder):
    text = (folder.parent / "data" / "length" / "test.jsonl").read_text()
    found = answers(call, folder, "length", text)
    labels = [json.loads(line)["label"] for line in text.splitlines()]
    assert sum(abs(one["value"] - label) for one, label in zip(found, labels, strict=True)) / len(labels) < 10
    assert set(found[0]) == {"line", "task", "text", "value", "label"}  # the label is the input's
    assert answers(call, folder, "length", " \n")[0]["value"] is None
    (value,) = predict(load_run(folder), [found[0]["text"]], "length")
    assert value == pytest.approx(found[0]["value"], rel=1e-5)


def test_predict_of_pairs_and_of_several_labels(call, folder):
    (one,) = answers(call, folder, "pairs", "play a song\tbook a table\n")
    assert (one["text"], one["text_pair"]) == ("play a song", "book a table")
    (same,) = answers(
        call, folder, "pairs", '{"a": "play a song", "b": "book a table"}', "--columns", "text=a,text_pair=b"
    )
    assert same["score"] == one["score"]
    (topics,) = answers(call, folder, "topics", "play a song\n")
    assert set(topics) == {"line", "task", "text", "label", "scores"}
    assert topics["label"] == sorted(label for label, score in topics["scores"].items() if score > 0.5)


def test_predict_answers_by_several_tasks(call, folder, fails):
    text = '{"text": "Play a song!", "id": 3}\n{"tokens": [], "id": 4}\n'
    result = call("predict", folder, "--task", "music", "--task", "length", input=text)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["line"], one["id"], one["task"]) for one in found] == [
        (1, 3, "music"), (1, 3, "length"), (2, 4, "music"), (2, 4, "length")
    ]  # fmt: skip
    assert found[0]["tokens"] == ["Play", "a", "song", "!"]
    assert found[1]["value"] == pytest.approx(answers(call, folder, "length", "Play a song!\n")[0]["value"], rel=1e-5)
    assert (found[2]["tags"], found[3]["value"]) == ([], None)
    plain = call("predict", folder, "--task", "intents", "--task", "music", input="play a song!\n").stdout
    assert [json.loads(line).get("tokens") for line in plain.splitlines()] == [None, ["play", "a", "song!"]]
    line = fails("predict", folder, input="a\n")  # all tasks
    assert "task must be of pairs of texts, or of none, got 'pairs', which is, and 'music'" in line


def test_predict_says_how_many_texts_were_cut(call, folder):
    result = call("predict", folder, "--task", "intents", input="play a song\n" + "play " * 300 + "\n")
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr == "warning: 1 texts or pairs are longer than 128 tokens: the first were read\n"
    assert call("predict", folder, "--task", "music", input="play " * 300).stderr == ""


def test_predict_reads_csv_and_json(call, folder, tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,play a song\n")
    (tmp_path / "a.tsv").write_text("id\ttext\n1\tplay a song\n")
    (tmp_path / "a.json").write_text('[\n{"text": "play a song"}]')
    found = [
        json.loads(call("predict", folder, tmp_path / name, "--task", "intents").stdout)
        for name in ("a.csv", "a.tsv", "a.json")
    ]
    assert {one["score"] for one in found} == {found[0]["score"]}
    assert [one["line"] for one in found] == [2, 2, 2]


@pytest.mark.parametrize(
    ("task", "text", "options", "parts"),
    [
        ("pairs", "play a song\n", (), ["<stdin>:1:", "a tab between them, got 0 tabs"]),
        ("pairs", '{"text": "a"}', (), ["<stdin>:1:", "has no 'text_pair', it has 'text'"]),
        ("intents", '{"text": "a", "text_pair": "b"}', (), ["<stdin>:1:", "single texts; remove it"]),
        ("intents", '{"body": "a"}', (), ["<stdin>:1:", "has no 'text', it has 'body'"]),
        ("intents", '{"text": 3}', (), ["<stdin>:1:", "text must be text, got 3"]),
        ("intents", "a\n", ("--tokenize", "words"), ["tokenize must be auto for 'intents', a classification"]),
        ("intents", "a\n", ("--each-word",), ["--each-word go with tagging, and 'intents' is a classification"]),
        ("intents", "a\n", ("--format", "conll"), ["format must be one of auto, text, jsonl, json, csv"]),
        (
            "intents",
            "a\n",
            ("--columns", "tokens=a"),
            ["--columns must be one of text, text_pair, label, got 'tokens'"],
        ),
        ("music", "a\n", ("--columns", "text_pair=a"), ["--columns must be one of tokens, tags, sentence"]),
    ],
)
def test_what_predict_cannot_read_is_one_line(fails, folder, task, text, options, parts):
    line = fails("predict", folder, "--task", task, *options, input=text)
    for part in parts:
        assert part in line


def test_inspect_shuffles_every_kind(call, folder):
    result = call("inspect", folder, "--limit", 5)
    assert result.exit_code == 0, result.output
    assert "Mean score falls by" in result.stdout


def test_data_check_counts_labels_and_cut_texts(call, config_file):
    backbone = config_file.parent / "bert"
    result = call("data", "check", config_file, "--backbone", backbone, "--max-length", 8)
    assert result.exit_code == 0, result.output
    rows = {tuple(line.split()[:2]): line.split() for line in result.stdout.splitlines()}
    header = result.stdout.splitlines()[0].split("  ")
    assert header[-1].strip() == "truncated"
    assert rows["intents", "train"][4:6] == ["-", "2"] and rows["length", "train"][4:6] == ["-", "-"]
    assert int(rows["pairs", "train"][-1]) > 0 and rows["music", "train"][-1] == "0"


def test_all_of_it_can_be_learnt(config_file, tmp_path):
    values = RunConfig.from_yaml(config_file).to_dict() | {
        "method": "full",
        "model": {},
        "output": str(tmp_path / "run"),
    }
    values["training"] |= {"steps": 160, "eval_steps": 160, "save_steps": 160, "batch_size": 32, "learning_rate": 3e-3}
    train(RunConfig.from_dict(values), progress=False)
    scores = evaluate(tmp_path / "run", "train")["tasks"]
    found = {task: one[headline(one)] for task, one in scores.items()}
    assert all(value > 0.9 for value in found.values()), found


@pytest.mark.parametrize("method", ["hyperformer++", "adapter", "lora", "full"])
def test_every_method_trains_them(config_file, tmp_path, method):
    values = RunConfig.from_yaml(config_file).to_dict() | {"method": method, "output": str(tmp_path / "run")}
    values["model"] = {"rank": 2} if method == "lora" else {} if method == "full" else {"reduction_factor": 4}
    values["training"] |= {
        "steps": 3,
        "eval_steps": 3,
        "save_steps": 3,
        "gradient_accumulation": 2,
        "label_smoothing": 0.1,
    }
    if method == "lora":
        pytest.importorskip("peft")
    metrics = train(RunConfig.from_dict(values), progress=False)
    assert set(metrics["test"]["tasks"]) == set(TASKS)
    (value,) = predict(load_run(tmp_path / "run"), ["play a song"], "length")
    assert 90 < value < 190


def test_a_kind_that_the_head_cannot_do_is_said_before_data_are_read(config_file, fails, tmp_path):
    values = yaml.safe_load(config_file.read_text()) | {"head": "text-to-text", "output": str(tmp_path / "no")}
    values["tasks"][1]["path"] = "nowhere"
    path = config_file.parent / "text.yaml"
    path.write_text(yaml.safe_dump(values))
    line = fails("train", path)
    assert "tasks[2]: task 'topics' of kind multi-label needs head: token-classification, got text-to-text" in line


def test_scores_need_their_libraries(config_file, fails, monkeypatch, tmp_path):
    from hyperloader.training import requirements

    original = requirements.importlib.util.find_spec
    monkeypatch.setattr(
        requirements.importlib.util, "find_spec", lambda name, *rest: None if name == "scipy" else original(name, *rest)
    )
    line = fails("train", config_file, "--output", tmp_path / "no")
    assert "kind classification is scored by scipy, which is not installed; run: pip install scipy" in line
