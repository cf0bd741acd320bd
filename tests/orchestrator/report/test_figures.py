from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from orchestrator.records import Interval, Objective, StageUse
from orchestrator.report.class_figures import FigureSettings, class_rows
from orchestrator.report.drawing import COLORS, INK
from orchestrator.report.figures import (
    confidence_histograms,
    draw_all,
    evaluation_figures,
    load_arrays,
    png,
    reliability,
    svg,
    training_curves,
)
from orchestrator.report.summary import by_method
from orchestrator.report.sweep_figures import (
    band_bars,
    importance_bars,
    intervals,
    method_strip,
    optimization_history,
    pareto,
)
from tests.helpers.factory import make_arrays, make_record, write_evaluation

NAMES = {"confusion", "updated_confusion", "class_accuracy", "confidence", "reliability"}
UP = Objective(metric="evaluate/accuracy", mode="max")
DOWN = Objective(metric="evaluate/forgetting", mode="min")


def interval(mean: float, half: float = 0.02) -> Interval:
    return Interval(mean=mean, low=mean - half, high=mean + half, values=[mean, mean + half / 2])


def figures(arrays: dict[str, Any], **settings: Any) -> dict[str, Figure]:
    return evaluation_figures(arrays, FigureSettings(**settings))


def texts(figure: Figure) -> str:
    return " ".join(ET.fromstring(svg(figure)).itertext())


def test_evaluation_gives_a_figure_for_every_array() -> None:
    found = figures(make_arrays())
    assert set(found) == NAMES
    assert figures({}) == {}
    assert set(figures({"confusion": np.eye(2, dtype=np.int64)})) == {"confusion"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_svg_is_one_element_in_page_colors_that_loads_nothing(name: str) -> None:
    text = svg(figures(make_arrays())[name])
    root = ET.fromstring(text)
    assert root.tag.endswith("svg")
    assert "currentColor" in text
    assert INK not in text
    for color in COLORS.values():
        assert not re.search(rf"(?<!, ){color}", text), "a color without its variable"
    addresses = re.findall(r"https?://[^\"' <]+", text)
    assert set(addresses) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "font-family" not in text
    assert "DejaVu" not in text


def test_same_figure_gives_the_same_text() -> None:
    first, second = (svg(figures(make_arrays())["confidence"]) for _ in range(2))
    assert first == second


def test_png_is_a_picture_on_white() -> None:
    picture = Image.open(io.BytesIO(png(figures(make_arrays())["confusion"])))
    assert picture.width > 300
    assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_confusion_shows_percent_of_the_true_class() -> None:
    table = np.array([[9, 1], [0, 0]])
    shown = texts(figures({"confusion": table})["confusion"])
    assert re.findall(r"\b(90|10)\b", shown) == ["90", "10"]


def test_last_column_without_class_is_named() -> None:
    shown = texts(figures(make_arrays())["updated_confusion"])
    assert "none" in shown


def test_bands_follow_the_experiments_limits() -> None:
    arrays = {
        "class_counts": np.array([50, 10, 5]),
        "class_accuracy": np.array([1.0, 0.5, 0.25]),
    }
    usual = texts(figures(arrays)["class_accuracy"])
    assert "medium 1.000" in " ".join(usual.split())
    assert "many" not in usual
    own = texts(figures(arrays, many_above=40, few_below=6)["class_accuracy"])
    assert "many 1.000 medium 0.500 few 0.250" in " ".join(own.split())


def test_class_without_a_held_out_image_is_not_judged() -> None:
    arrays = {
        "class_counts": np.array([50, 10, 9, 2, 1]),
        "class_accuracy": np.array([1.0, 0.5, np.nan, np.nan, np.nan]),
    }
    shown = texts(figures(arrays, many_above=40, few_below=6)["class_accuracy"])
    assert "many 1.000 medium 0.500 few not judged" in " ".join(shown.split())


def test_classes_have_their_names_in_every_figure() -> None:
    names = ("otter", "lynx", "elk", "ibex", "stoat", "vole", "newt", "finch", "wren", "dace")
    shown = figures(make_arrays(), class_names=names)
    for picture, expected in (
        ("confusion", names[:7]),
        ("class_accuracy", names[:7]),
        ("updated_confusion", names),
    ):
        words = texts(shown[picture]).split()
        assert set(expected) <= set(words), picture
        assert "6" not in words, "a number in place of a name"


@pytest.mark.parametrize("name", ["$x$", "a$b", "$_{", "<b>&amp;", "猫", "x" * 80])
def test_odd_class_names_are_drawn(name: str, recwarn: pytest.WarningsRecorder) -> None:
    shown = figures(make_arrays(), class_names=(name,))
    for picture in ("confusion", "class_accuracy", "updated_confusion"):
        assert name[:15] in texts(shown[picture])
        assert png(shown[picture]).startswith(b"\x89PNG")
    assert [str(warning.message) for warning in recwarn] == []


def test_classes_of_the_report_have_bands_of_the_recipe() -> None:
    arrays = make_arrays(num_known=3, num_novel=1)
    arrays["class_counts"] = np.array([15, 61, 9])
    arrays["class_accuracy"] = np.array([0.5, 0.75, np.nan], np.float32)
    arrays["updated_confusion"] = np.array(
        [[3, 1, 0, 0, 0], [0, 4, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 1, 2]]
    )
    settings = FigureSettings(many_above=50, few_below=10, class_names=("a", "b", "c", "d"))
    assert class_rows(arrays, settings) == [
        ("b", "many", 61, 0.75, 1.0),
        ("a", "medium", 15, 0.5, 0.75),
        ("c", "few", 9, None, None),
        ("d", "new", None, None, 0.25),
    ]
    assert class_rows({}, settings) == []


def test_hundred_classes_are_drawn() -> None:
    arrays = make_arrays(num_known=100, num_novel=20)
    for figure in figures(arrays).values():
        assert len(svg(figure)) > 1000


@pytest.mark.parametrize(
    "values", [[], [1.0], [2.0, 2.0, 2.0], [math.inf, -math.inf, math.nan, 1.0]]
)
def test_odd_confidences_are_drawn(values: list[float]) -> None:
    groups = {"known": np.array(values), "novel": np.zeros(0)}
    assert "confidence" in texts(confidence_histograms(groups, threshold=math.nan))


def test_empty_and_certain_probabilities_are_drawn() -> None:
    assert "accuracy" in texts(reliability(np.zeros(0), np.zeros(0, bool)))
    assert "accuracy" in texts(reliability(np.ones(3), np.ones(3, bool)))


def test_dots_of_the_reliability_diagram_are_the_bins_of_the_calibration_error() -> None:
    # (0, 1/2] holds 1/2, and (1/2, 1] the others
    probability = np.array([0.5, 0.75, 1.0])
    figure = reliability(probability, np.array([True, False, True]), bins=2)
    curve = figure.axes[0].get_lines()[1].get_xydata()
    assert np.asarray(curve).tolist() == [[0.5, 1.0], [0.875, 0.5]]


def test_training_curves_separate_losses_and_fractions() -> None:
    rows = [
        {"epoch": 0.0, "classify/loss": 2.0, "classify/accuracy": 0.1, "classify/lr": 0.1},
        {"epoch": 1.0, "classify/loss": 1.0, "classify/lr": 0.05},
    ]
    figure = training_curves(rows)
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "fraction"]
    labels = [line.get_label() for axis in figure.axes for line in axis.lines]
    assert labels == ["loss", "accuracy"]
    assert len(training_curves([{"epoch": 0.0, "x": 7.0}]).axes) == 1


def test_folder_of_an_evaluation_becomes_pictures_by_file_name(tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    assert set(load_arrays(tmp_path)) == set(make_arrays())
    history = [{"epoch": float(e), "classify/loss": 1.0} for e in range(3)]
    use = StageUse(stage="classify", key="k", reused=False, seconds=1.0, history=history)
    drawn = draw_all(tmp_path, [use], FigureSettings())
    assert set(drawn) == {f"{name}.png" for name in NAMES | {"training_classify"}}
    assert all(data.startswith(b"\x89PNG") for data in drawn.values())


def test_course_marks_best_so_far() -> None:
    points = [(0, 0.5, True), (1, 0.9, False), (2, 0.4, True), (3, 0.7, True)]
    up, down = (
        optimization_history(points, o, best=3).axes[0].lines[0].get_ydata() for o in (UP, DOWN)
    )
    assert list(up) == [0.5, 0.5, 0.7]
    assert list(down) == [0.5, 0.4, 0.4]
    assert "trial" in texts(optimization_history([], UP))


def test_pareto_names_the_trials_of_the_front_and_the_directions() -> None:
    points = [(7, 0.9, 0.1), (8, 0.5, 0.05), (9, 0.4, 0.3)]
    shown = texts(pareto(points, [True, True, False], [UP, DOWN], best=7))
    assert "7" in shown.split()
    assert "8" in shown.split()
    assert "9" not in shown.split()
    assert "accuracy  → better" in shown
    assert "forgetting  ← better" in shown


def test_sweep_figures_show_their_names(tmp_path: Path) -> None:
    [losses, *_] = by_method(make_record(tmp_path))
    strip = method_strip(losses, UP, (0.5, 0.9))
    assert "logit_adjustment (" in " ".join(texts(strip).split())
    assert strip.axes[0].get_xlim()[0] < 0.5
    assert "classify.lr" in texts(importance_bars({"classify.lr": 0.7, "x": 0.3}))
    rows = {"trial 1": interval(0.7), "trial 2": interval(0.6, math.nan)}
    assert "trial 2" in texts(intervals(rows, "accuracy"))
    bars = texts(band_bars({"trial 1": {"many": interval(0.9), "few": interval(0.31)}}))
    assert "0.31" in bars.split()
