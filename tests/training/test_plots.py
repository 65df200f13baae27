"""The figures of a run: real PNG files whose axes say what they show."""

import struct

import pytest

from hyperloader.training.plots import heat_maps, learning_curve, per_task_bars, search_points

CURVE = [
    {"step": 50, "train_loss": 2.0, "mean_f1": 0.25},
    {"step": 100, "train_loss": None, "mean_f1": 0.75},
    {"step": 150, "train_loss": float("nan"), "mean_f1": 0.5},
]


def size_of_png(path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


def test_learning_curve(tmp_path):
    figure = learning_curve(CURVE, tmp_path / "curve.png", title="Learning curve: test")
    width, height = size_of_png(tmp_path / "curve.png")
    assert min(width, height) > 500
    upper, lower = figure.axes
    assert figure.get_suptitle() == "Learning curve: test"
    assert upper.get_ylabel() == "training loss"
    assert lower.get_ylabel() == "mean validation F1 (%)"
    assert lower.get_xlabel() == "training step"
    assert upper.lines[0].get_xydata().tolist() == [[50, 2]]
    assert lower.lines[0].get_xydata().tolist() == [[50, 25], [100, 75], [150, 50]]
    assert [text.get_text() for text in lower.texts] == ["best: 75.0 at step 100"]


def test_per_task_bars(tmp_path):
    figure = per_task_bars({"music": 0.5, "mean": 1.0}, tmp_path / "bars.png", title="Test F1")
    size_of_png(tmp_path / "bars.png")
    (axes,) = figure.axes
    assert axes.get_title() == "Test F1"
    assert axes.get_xlabel() == "micro-F1 over spans (%)"
    assert axes.get_ylabel() == "task"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["music", "mean", "mean"]
    assert [bar.get_width() for bar in axes.patches] == [50, 100, 75]
    assert [text.get_text() for text in axes.texts] == ["50.0", "100.0", "75.0"]
    low, high = axes.get_xlim()
    assert low == 0
    assert high > 100


def test_search_points(tmp_path):
    rates = [(0, 0.5), (0, 0.25), (1, 0.75), (0, 0.75), (2, None)]
    ranks = [(0, 0.5), (1, 0.25), (0, 0.75), (1, 0.75), (1, None)]
    panels = {"rate": (["0.001", "0.003", "9.0"], rates), "rank": (["4", "8"], ranks)}
    figure = search_points(panels, tmp_path / "search.png", title="Search", axis="mean F1 (%)")
    size_of_png(tmp_path / "search.png")
    left, right = figure.axes
    assert [axes.get_xlabel() for axes in (left, right)] == ["rate", "rank"]
    assert left.get_ylabel() == "mean F1 (%)"
    assert [label.get_text() for label in left.get_xticklabels()] == ["0.001", "0.003", "9.0"]
    line, points, star, failed = (one.get_xydata().tolist() for one in left.lines)
    assert line == [[0, 75], [1, 75]]
    assert points == [[0, 50], [0, 25], [1, 75], [0, 75]]
    assert star == [[1, 75]]
    assert [place for place, _ in failed] == [2]
    assert right.lines[2].get_xydata().tolist() == [[0, 75]]
    with pytest.raises(ValueError, match="panels must hold at least one key"):
        search_points({}, title="", axis="")


def test_heat_maps(tmp_path):
    matrix = [[1.0, -0.5], [-0.5, float("nan")]]
    panels = {name: (["x", "y"], matrix) for name in ("first", "second", "third", "fourth", "fifth")}
    figure = heat_maps(panels, tmp_path / "maps.png", title="Similarity")
    size_of_png(tmp_path / "maps.png")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown[:5]] == list(panels)
    assert shown[5].get_ylabel() == "cosine similarity"
    assert [label.get_text() for label in shown[0].get_yticklabels()] == ["x", "y"]
    assert [text.get_text() for text in shown[0].texts] == ["1.00", "-0.50", "-0.50"]
    assert shown[0].images[0].get_clim() == (-1, 1)
    assert figure.get_suptitle() == "Similarity"
    with pytest.raises(ValueError, match="at least one matrix"):
        heat_maps({}, title="")


LONG, EMOJI = "utterances of the assistant " * 12 + "in English", "music 🎵"


def drawn(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.filterwarnings("error")
def test_names_of_any_length_and_script(tmp_path):
    names = [LONG, EMOJI, "$a$b$", "two\nlines", "日本", "", "a_b^c\\d"]
    shown = ["utterances of the a… English", "music □", r"\$a\$b\$", "two□lines", "□□", "", "a_b^c\\d"]
    figure = per_task_bars(dict.fromkeys(names, 0.5), tmp_path / "bars.png")
    size_of_png(tmp_path / "bars.png")
    assert drawn(figure.axes[0].yaxis) == [*shown, "mean"]
    matrix = [[1.0] * len(names)] * len(names)
    figure = heat_maps({"down_weight": (names, matrix)}, tmp_path / "maps.png", title="Similarity")
    size_of_png(tmp_path / "maps.png")
    assert drawn(figure.axes[0].xaxis) == drawn(figure.axes[0].yaxis) == shown


@pytest.mark.filterwarnings("error")
def test_very_many_tasks_fit_into_a_figure(tmp_path):
    figure = per_task_bars({f"task {number}": 0.5 for number in range(3000)}, tmp_path / "bars.png")
    assert size_of_png(tmp_path / "bars.png")[1] < 1 << 16
    assert 100 < len(drawn(figure.axes[0].yaxis)) <= 200


@pytest.mark.parametrize("steps", [[2], [1, 2], [2, 4], [250, 500, 750]])
def test_the_ticks_of_a_learning_curve_are_steps(steps):
    figure = learning_curve([{"step": step, "train_loss": 1.0, "mean_f1": 0.5} for step in steps])
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert all(tick == int(tick) for tick in axes.get_xticks())


def test_one_task_has_no_mean(tmp_path):
    (axes,) = per_task_bars({"music": 0.5}).axes
    assert len(axes.patches) == 1


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="at least one evaluation"):
        learning_curve([])
    with pytest.raises(ValueError, match="at least one task"):
        per_task_bars({})


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        per_task_bars({"a": 1.0}, tmp_path / "none" / "x.png")
