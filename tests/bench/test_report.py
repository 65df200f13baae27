"""From a measured case to JSON, chart and tables, and the command line around it."""

import dataclasses
import json

import pytest
import torch

from bench import budget, machine, session
from bench.__main__ import main
from bench.case import BOTH, FORWARD, Calls, Case, Pass, Point, Provider
from bench.cases import CASES, captured, generate, lora_linear, mixed, predict, step
from bench.providers import PLAIN, PUBLISHED, ours_name
from bench.results import Run

NATIVE = ours_name("native")
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def adapter_case(wrong=False):
    """The case ``adapter`` with something else inside, that takes no time."""

    def passes(point, setting):
        right, result = torch.ones(3), torch.zeros(3) if wrong else torch.ones(3)
        providers = [
            Provider(PLAIN, lambda: Calls.of(lambda: [right])),
            Provider(NATIVE, lambda: Calls.of(lambda: [result])),
        ]
        for name in (FORWARD, BOTH):
            yield Pass(name, providers, lambda: [right], flop=1000, bytes=10, units=3, unit="tokens")

    sweep = [Point(f"{tokens} tokens", {"tokens": tokens, "hidden": 4}, "tokens") for tokens in (1, 8)]
    headline = Point("4096 × 768, bottleneck 24", {"tokens": 4, "hidden": 4}, headline=True)
    return Case("adapter", "Made up", [headline, *sweep], passes)


def no_floor(device, dtype):
    return {"flop_per_s": 1e9, "bytes_per_s": 1e9}


@pytest.fixture
def quick_floor(monkeypatch):
    monkeypatch.setattr(session, "measure_floor", no_floor)


@pytest.fixture
def page(measured):
    path = measured.parent / "speed.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "measure_floor", no_floor)
        patch.setitem(CASES, "adapter", adapter_case())
        assert main(["adapter", "--no-compile", "--threads", "1", "2", "--output", str(folder)]) == 0
    return folder


def test_json(measured):
    result = json.loads((measured / "adapter.json").read_text(encoding="utf-8"))
    assert {"commit", "date", "hardware", "options", "versions", "missing_backends"} <= result.keys()
    assert {"python", "torch", "triton", "transformers", "peft", "hyperloader"} == result["versions"].keys()
    assert [run["threads"] for run in result["runs"]] == [1, 2]
    first, second = (run["points"] for run in result["runs"])
    assert [point["point"] for point in first] == ["4096 × 768, bottleneck 24"]
    assert len(second) == 3, "sweeps run with the most threads alone"
    row = first[0]["passes"][0]["providers"][1]
    assert row["provider"] == NATIVE and row["relative_error"] == 0
    assert {"median_s", "p10_s", "p90_s", "repeats", "peak_bytes", "allocated_bytes", "operators"} <= row.keys()


def test_chart(measured):
    assert (measured / "adapter.png").read_bytes().startswith(b"\x89PNG")


def test_number_of_threads_is_given_back(monkeypatch, tmp_path, quick_floor):
    monkeypatch.setitem(CASES, "adapter", adapter_case())
    before = torch.get_num_threads()
    main(["adapter", "--quick", "--no-compile", "--threads", str(before + 1), "--output", str(tmp_path)])
    assert torch.get_num_threads() == before


def test_report(measured, page, capsys):
    assert main(["report", str(measured.parent), "--document", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n| what | goal | 1 thread | 2 threads |")
    assert text.endswith(f"{END}\nafter\n") and "old" not in text
    assert "[Chart](cpu/adapter.png)" in text
    assert f"| {NATIVE} |" in text
    assert text.partition(BEGIN)[2].partition(END)[0].strip() in capsys.readouterr().out
    assert main(["report", str(measured), "--document", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == text, "once more is the same"


def test_wrong_provider(monkeypatch, tmp_path, quick_floor, capsys):
    monkeypatch.setitem(CASES, "adapter", adapter_case(wrong=True))
    assert main(["adapter", "--quick", "--no-compile", "--threads", "1", "--output", str(tmp_path)]) == 1
    assert f"{NATIVE} is wrong by 1.0e+00" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


PASSES = (FORWARD, BOTH, step.STEP, "encode", "generate", captured.DECODING)


def made_up_run():
    """Ours takes 2 s, plain PyTorch 8 s, the published way 40 s, what is frozen 1 s; see the numbers below."""

    def row(name, seconds, peak=80):
        return {"provider": name, "median_s": seconds, "peak_bytes": peak, "operators": 50}

    rows = [row(PLAIN, 8.0), row(PUBLISHED, 40.0, 100), row(step.FROZEN, 1.0), row(lora_linear.FROZEN, 1.0)]
    rows += [row(NATIVE, 2.0), row(ours_name("reference"), 16.0), row(NATIVE + mixed.ONE_TASK, 1.0)]
    rows += [row(NATIVE + generate.DROP_IN, 4.0)]
    rows += [row(NATIVE + predict.MERGED, 3.0), row(NATIVE + predict.LORA_MERGED, 3.0), row(predict.FROZEN, 1.0)]
    rows += [row(predict.PEFT_TASKS, 3.0), row(NATIVE + step.RECOMPUTED, 5.0, 70)]
    cases = {
        name: {
            "floor": {"flop_per_s": 10.0, "bytes_per_s": 5.0},
            "points": [
                {"point": point.name, "headline": point.headline, "passes": [
                    {"pass": one, "flop": 20, "bytes": 5, "providers": rows} for one in PASSES
                ]}
                for point in case.points
            ],
        }
        for name, case in CASES.items()
    }  # fmt: skip
    return Run("cpu", 2, "float32", "AVX2", cases)


def test_budget_values():
    """Every row finds its numbers under the names that the cases give them."""
    values = {row.what: row.value(made_up_run()) for row in budget.ROWS}
    assert None not in values.values(), [what for what, value in values.items() if value is None]
    expected = {
        "through the drop-in": 10, "stack, forward + backward: faster than published": 20,
        "sentences: faster than published": 20, "dispatched operators": 50, "copying what must be": 2,
        "faster than plain": 4, "time over its floor": 1, "share of copy bandwidth": 50, "frozen linear alone": 2,
        "time over plain": 0.25, "norms trained": 2, "as a CUDA graph": 2, "the same: peak memory": 0.8,
        "recompute_norms: peak": 0.7, "a step without": 2.5, "time over one task": 2, "merged": 3,
        "tokens: time over the frozen": 2, "faster than PEFT": 1.5,
    }  # fmt: skip
    for what, value in values.items():
        (wanted,) = [number for part, number in expected.items() if part in what]
        assert value == pytest.approx(wanted), what


def test_budget_table():
    lines = budget.table([made_up_run()]).splitlines()
    assert lines[0] == "| what | goal | 2 threads |"
    assert not any("GPU" in line for line in lines)
    assert "| ≥ 15.00× | 20.00× met |" in lines[2]
    assert "| ≤ 60 | 50 met |" in lines[3]
    assert "| ≤ 1.10× | 2.00× **missed** |" in next(line for line in lines if "frozen linear" in line)


def test_budget_is_empty_where_nothing_was_measured():
    lines = budget.table([Run("cpu", 1, "float32", "AVX2", {})]).splitlines()
    assert all(line.endswith("|  |") for line in lines[2:])


def test_list(capsys):
    assert main(["--list", "adapter"]) == 0
    assert "4096 × 768, bottleneck 24 (headline)" in capsys.readouterr().out


def _bad(tmp_path):
    file = tmp_path / "a file"
    file.touch()
    return {
        "CASE": (
            ["adaptor"],
            "CASE must be one of generate, adapter, lora_linear, overhead, step, predict, mixed, captured",
        ),
        "option": (["--fast"], "unrecognized arguments: --fast"),
        "device": (["--device", "tpu"], "--device must be cpu or cuda, got 'tpu'"),
        "threads": (["--threads", "0"], "--threads must be whole numbers of at least 1, got '0'"),
        "dtype": (["--dtype", "int8"], "--dtype must be any of float32, bfloat16, float16, float64, got 'int8'"),
        "output": (["--output", str(file / "x")], "--output must be a folder that can be written"),
        "no folder": (["report", str(tmp_path / "none")], "FOLDER must be a folder of results"),
        "no JSON": (["report", str(tmp_path)], "FOLDER must hold results such as adapter.json, got none"),
    }


@pytest.mark.parametrize("name", ["CASE", "option", "device", "threads", "dtype", "output", "no folder", "no JSON"])
def test_bad_input(name, tmp_path, capsys):
    arguments, message = _bad(tmp_path)[name]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bench: {message}") and error.count("\n") == 1


@pytest.mark.parametrize(("content", "message"), [("{", "got no JSON"), ("[]", "must be a result of this version")])
def test_report_of_a_damaged_file(content, message, tmp_path, capsys, page):
    (tmp_path / "adapter.json").write_text(content, encoding="utf-8")
    assert main(["report", str(tmp_path), "--document", str(page)]) == 2
    assert message in capsys.readouterr().err


def test_report_without_marks(measured, tmp_path, capsys):
    path = tmp_path / "other.md"
    path.write_text("nothing", encoding="utf-8")
    assert main(["report", str(measured), "--document", str(path)]) == 2
    assert f"{path}: must hold the marks {BEGIN} and {END}" in capsys.readouterr().err


def test_folder_of_an_instruction_set_and_of_a_quick_run(monkeypatch):
    monkeypatch.setattr(machine, "_LIMITS", ())
    for capability, name in (("AVX2", "cpu-avx2"), ("AVX512", "cpu-avx512"), ("NO AVX", "cpu-no-avx")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        options = session.Options(torch.device("cpu"), [1], [torch.float32])
        assert options.folder_name == name
        assert dataclasses.replace(options, quick=True).folder_name == f"{name}-quick"


def test_what_limits_the_instruction_sets_is_said(monkeypatch, measured, tmp_path, page):
    cpu = torch.device("cpu")
    for variable in machine._LIMITS:
        monkeypatch.delenv(variable, raising=False)
    assert "limited_by" not in machine.hardware(cpu)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    limited = machine.hardware(cpu)
    assert limited["limited_by"] == "ATEN_CPU_CAPABILITY=avx2"
    assert machine.slug(cpu).endswith("-limited")
    result = json.loads((measured / "adapter.json").read_text(encoding="utf-8"))
    (tmp_path / "adapter.json").write_text(json.dumps(result | {"hardware": limited}), encoding="utf-8")
    assert main(["report", str(tmp_path), "--document", str(page)]) == 0
    assert "(limited by `ATEN_CPU_CAPABILITY=avx2`)" in page.read_text(encoding="utf-8")


def test_cpus_have_a_column_each():
    runs = [Run("cpu", 2, "float32", capability, {}) for capability in ("AVX2", "AVX512")]
    assert "| 2 threads, AVX2 | 2 threads, AVX512 |" in budget.table(runs).splitlines()[0]
    assert "| 2 threads |" in budget.table(runs[:1]).splitlines()[0]
