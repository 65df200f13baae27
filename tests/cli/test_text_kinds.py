"""Every kind of task that a text model does in one run, by the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import text_run
from huggingface_hub import ModelCard

from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig
from hyperloader.training.saved_run import evaluate, load_run, predict


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return text_run.write_config(tmp_path_factory.mktemp("text"))


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
    scores = {task: set(one) - {"sentences"} for task, one in metrics["test"]["tasks"].items()}
    assert scores == {
        "colours": {"f1", "precision", "recall", "spans", "predicted"},
        "answer": {"exact_match", "perplexity"},
        "which": {"accuracy", "macro_f1", "matthews"},
        "talk": {"exact_match", "perplexity"},
        "twins": {"accuracy", "macro_f1", "matthews"},
        "short": {"exact_match", "rouge_l"},
    }
    assert list(scores) == list(text_run.DECODER_TASKS)
    assert "exact match" in trained.stdout and "ROUGE-L" in trained.stdout
    perplexity = metrics["test"]["tasks"]["answer"]["perplexity"]
    assert f"perplexity {perplexity:.4g}" in trained.stdout and perplexity > 1


def test_its_card_has_every_kind(folder, metrics):
    card, scores = ModelCard.load(folder / "README.md"), metrics["test"]["tasks"]
    for task, kind in text_run.DECODER_TASKS.items():
        score = f" exact_match {scores[task]['exact_match']:.3f} |\n" if "exact_match" in scores[task] else ""
        (row,) = (line for line in card.text.splitlines(True) if line.startswith(f"| {task} | {kind} |"))
        assert row.endswith(score)
    found = {one.dataset_name: one.task_type for one in card.data.eval_results}
    assert (found["talk"], found["colours"]) == ("text-generation", "token-classification")


def assert_same_scores(found, wanted):
    """A perplexity is of a mean of float32 losses, which is the same but for its rounding."""
    assert found["mean_score"] == wanted["mean_score"]
    assert found["tasks"].keys() == wanted["tasks"].keys()
    for task, scores in wanted["tasks"].items():
        assert found["tasks"][task] == pytest.approx(scores, rel=1e-6)


@pytest.mark.slow
def test_another_process_evaluates_to_the_same_numbers(folder, metrics):
    code = (
        "import json, sys; from hyperloader.training.saved_run import evaluate; "
        "print(json.dumps(evaluate(sys.argv[1])))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert_same_scores(json.loads(ran.stdout), metrics["test"])


def test_a_resumed_run_is_the_same_to_the_bit(config_file, folder, metrics, tmp_path):
    from hyperloader.training import trainer

    config = RunConfig.from_dict({**RunConfig.from_yaml(config_file).to_dict(), "output": str(tmp_path / "again")})

    class Stop(Exception):
        pass

    def stop(self, model, inputs, count=None, original=trainer.MultiTaskTrainer.training_step):
        if self.state.global_step >= 3:
            raise Stop
        return original(self, model, inputs, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.MultiTaskTrainer, "training_step", stop)
        with pytest.raises(Stop):
            train(config, progress=False)
    again = train(config, resume=True, progress=False)
    assert again["learning_curve"] == metrics["learning_curve"]
    best = (tmp_path / "again" / "best" / "model.safetensors").read_bytes()
    assert best == (folder / "best" / "model.safetensors").read_bytes()


def test_python_predicts_every_kind(folder):
    run = load_run(folder)
    (label,) = predict(run, ["show me red in rome"], "which")
    assert label in run.labels["which"]
    (label,) = predict(run, [("show me red in rome", "in oslo")], "twins")
    assert label in ("same", "other")
    assert len(next(predict(run, [["in", "rome"]], "colours"))) == 2
    for task, one in (("short", "red"), ("answer", "red\nplace:"), ("talk", [{"role": "user", "content": "say red"}])):
        (text,) = predict(run, [one], task)
        assert isinstance(text, str)


def answers(call, folder, text, *tasks):
    result = call("predict", folder, *(word for task in tasks for word in ("--task", task)), input=text)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


PROMPTS = [
    {"task": "short", "source": "show me red in rome", "id": 3},
    {"task": "answer", "prompt": "show me red in rome\nplace:", "completion": " rome"},
    {"task": "talk", "messages": [{"role": "user", "content": "say red"}]},
    {"task": "which", "text": "show me red in rome"},
    {"task": "twins", "text": "red in rome", "text_pair": "in rome"},
    {"task": "colours", "text": "show me red"},
]


def test_mixed_prompts_are_answered_in_one_batch_as_by_merged_models(call, folder):
    lines = "".join(json.dumps(one) + "\n" for one in PROMPTS)
    found = answers(call, folder, lines)
    assert [(one["line"], one["task"]) for one in found] == [(n, one["task"]) for n, one in enumerate(PROMPTS, 1)]
    short, answer, talk, which, twins, colours = found
    assert set(short) == {"line", "task", "source", "target", "id"} and isinstance(short["target"], str)
    assert set(answer) == {"line", "task", "prompt", "completion", "input"}  # what the line says stays under input
    assert set(talk) == {"line", "task", "messages", "completion"} and talk["messages"] == PROMPTS[2]["messages"]
    assert which["label"] == next(iter(which["scores"])) and sum(which["scores"].values()) == pytest.approx(1, abs=1e-3)
    assert twins["text_pair"] == "in rome" and colours["tokens"] == ["show", "me", "red"]
    for one, mixed in zip(PROMPTS, found, strict=True):
        (alone,) = answers(call, folder, json.dumps(one), one["task"])
        assert alone == {**mixed, "line": 1}


def test_a_text_is_answered_by_several_tasks(call, folder):
    found = answers(call, folder, "show red\n", "which", "short", "talk", "answer")
    assert [one["task"] for one in found] == ["which", "short", "talk", "answer"]
    assert found[2]["messages"] == [{"role": "user", "content": "show red"}] and found[3]["prompt"] == "show red"
    assert answers(call, folder, " \n", "short")[0]["target"] is None
    (one,) = answers(call, folder, json.dumps({"text": "show red"}), "short")
    assert one["source"] == "show red"


def test_a_tagger_answers_prompts_and_chats(folder):
    from hyperloader.serving.tagger import Tagger

    tagger = Tagger.from_pretrained(folder)
    (one, other) = tagger([PROMPTS[1], PROMPTS[2]])
    assert one["prompt"] == PROMPTS[1]["prompt"] and isinstance(other["completion"], str)


def test_of_a_chat_the_last_reply_alone_is_left_out(folder, monkeypatch):
    from hyperloader.serving.tagger import Tagger

    tagger, asked = Tagger.from_pretrained(folder), []
    encode = tagger.run.formulation.encode_all
    monkeypatch.setattr(
        tagger.run.formulation, "encode_all", lambda some, **options: asked.append(some) or encode(some, **options)
    )
    said = [{"role": "user" if one == "say red" else "assistant", "content": one} for one in ("say red", "a", "b")]
    assert tagger({"messages": said}, task="talk")["messages"] == said[:2]
    assert list(asked[0]["talk"][0].messages) == said[:2]


@pytest.mark.parametrize(
    ("task", "text", "part"),
    [
        ("answer", json.dumps({"body": "a"}), "<stdin>:1: the object has no 'prompt', it has 'body'"),
        ("answer", "red " * 300, "input:1: the prompt has 30"),
        ("talk", json.dumps({"messages": [{"role": "user"}]}), "<stdin>:1: message 1 has no 'content', it has 'role'"),
        ("talk", json.dumps({"text": "red", "task": "short"}), "<stdin>:1: task must be one of talk, got 'short'"),
        (None, json.dumps({"text": "red", "task": "wich"}), "got 'wich'; did you mean 'which'?"),
    ],
)
def test_what_predict_cannot_answer_is_one_line(fails, folder, task, text, part):
    assert part in fails("predict", folder, *(() if task is None else ("--task", task)), input=text)


@pytest.mark.parametrize("format", ["torch-export", "aot-inductor"])
def test_what_writes_text_is_no_program(fails, folder, tmp_path, format):
    message = fails("export", folder, tmp_path / "out", "--format", format)
    assert f"head of a run must be token-classification for the format {format}, got language-model; the" in message
    assert not (tmp_path / "out").exists()


def test_a_dry_run_and_inspect(call, config_file, folder):
    result = call("train", config_file, "--output", config_file.parent / "dry", "--dry-run", 2)
    assert result.exit_code == 0, result.output
    assert "at most" in result.stdout and not (config_file.parent / "dry").exists()
    result = call("inspect", folder, "--limit", 2)
    assert result.exit_code == 0 and "Mean score falls by" in result.stdout, result.output


def test_data_check_counts_what_is_cut(call, config_file):
    command = ["data", "check", config_file, "--backbone", config_file.parent / "llama", "--head", "language-model"]
    result = call(*command, "--max-length", 60)
    assert result.exit_code == 0, result.output
    rows = {tuple(line.split()[:2]): line.split() for line in result.stdout.splitlines()}
    assert rows["answer", "train"][4:6] == ["-", "-"] and rows["which", "train"][4:6] == ["-", "3"]


@pytest.mark.parametrize(
    "name", ["t5", pytest.param("bart", marks=pytest.mark.slow), pytest.param("gpt2", marks=pytest.mark.slow)]
)
def test_other_models_do_it_too(tmp_path, name):
    metrics = train(RunConfig.from_yaml(text_run.write_config(tmp_path, name)), progress=False)
    tasks = text_run.DECODER_TASKS if name == "gpt2" else text_run.BOTH_TASKS
    assert list(metrics["test"]["tasks"]) == list(tasks)
    assert_same_scores(evaluate(tmp_path / "run"), metrics["test"])


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(one, marks=SLOW) for one in ("full", "adapter", "hyperformer++"))]
)
def test_every_method_trains_them(config_file, tmp_path, method):
    values = RunConfig.from_yaml(config_file).to_dict() | {"method": method, "output": str(tmp_path / "run")}
    values["model"] = {"rank": 2} if method == "lora" else {} if method == "full" else {"reduction_factor": 4}
    values["training"] |= {"steps": 2, "eval_steps": 2, "gradient_accumulation": 2, "label_smoothing": 0.1}
    if method == "lora":
        pytest.importorskip("peft")
    metrics = train(RunConfig.from_dict(values), progress=False, test=False)
    (label,) = predict(load_run(tmp_path / "run"), ["show me red in rome"], "which")
    assert label.startswith("to_") and metrics["trainable_parameters"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rate", "tasks"),
    [("llama", 2e-3, {"colours", "answer", "which", "talk", "short"}), ("bart", 1e-3, {"colours", "short"})],
)
def test_what_a_small_model_can_learn_it_learns(tmp_path, name, rate, tasks):
    changes = {"steps": 2000, "eval_steps": 2000, "save_steps": 2000, "batch_size": 24, "learning_rate": rate}
    values = RunConfig.from_yaml(text_run.write_config(tmp_path, name)).to_dict() | {"method": "full", "model": {}}
    values["training"] |= changes
    train(RunConfig.from_dict(values), progress=False, test=False)
    scores = evaluate(tmp_path / "run", "train")["tasks"]
    found = {task: next(iter(scores[task].values())) for task in tasks}
    assert all(value > 0.9 for value in found.values()), found


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(config_file, tmp_path):
    script = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from hyperloader.training.run import RunConfig, train\n"
        "train(RunConfig.from_dict(json.loads(sys.argv[1])), progress=False)"
    )
    (tmp_path / "main.py").write_text(script)
    found = []
    for processes in (1, 2):
        values = RunConfig.from_yaml(config_file).to_dict() | {"output": str(tmp_path / str(processes))}
        values["training"] |= {"batch_size": 8 // processes, "bucket": 1}
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launch, str(tmp_path / "main.py"), json.dumps(values)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert ran.returncode == 0, ran.stderr
        found.append(json.loads((tmp_path / str(processes) / "metrics.json").read_text()))
    one, two = ([point["train_loss"] for point in metrics["learning_curve"]] for metrics in found)
    assert one == pytest.approx(two, rel=0.05)  # a task's tokens are averaged on each process
    perplexities = [metrics["test"]["tasks"]["answer"]["perplexity"] for metrics in found]
    assert perplexities[0] == pytest.approx(perplexities[1], rel=0.2)
    assert found[1]["test"]["tasks"]["talk"]["sentences"] == 8
