"""World service: every class known, every training image trains, what is held out stays out."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.pictures import draw, draw_folder
from trainables.data.look import look
from trainables.data.protocol import cut
from trainables.data.source_cache import Source
from trainables.data.sources import load_source
from trainables.data.views import build_views
from trainables.errors import ConfigError
from trainables.experiment import Data, Experiment, in_service, load_experiment
from trainables.settings import assign, build


def service(**changes: Any) -> Data:
    return build(Data, {"world": "service", **changes})


def source(
    counts: list[int], test: list[int], groups: np.ndarray | None = None, **changes: Any
) -> Source:
    """A source without content: of each class first its training, then its test images."""
    labels, is_test = [], []
    for label, (train, held) in enumerate(zip(counts, test, strict=True)):
        labels += [label] * (train + held)
        is_test += [False] * train + [True] * held
    images = np.zeros((len(labels), 8, 8, 3), dtype=np.uint8)
    names = tuple(f"c{n}" for n in range(len(counts)))
    parts = np.array(labels, dtype=np.int64), np.array(is_test)
    return Source(images, *parts, names, None, "digest", groups=groups, **changes)


def table(folder: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """Write a table of drawn images: name, class, group, part."""
    for number, (name, label, _, _) in enumerate(rows):
        draw(folder / name, ord(label[-1]), noise=number)
    path = folder / "photos.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "group", "part"), *rows])
    return path


def test_all_classes_are_known_and_all_training_images_train() -> None:
    parts = cut(service(), source([5, 3, 1], [2, 0, 1]))
    assert parts.known_classes == [0, 1, 2]
    assert parts.class_counts == [5, 3, 1]
    assert parts.known_train.tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10]
    assert parts.held_out_known.tolist() == [5, 6, 11]  # the class without test images stays known
    for name in ("validation_known", "validation_novel", "pool_known", "pool_novel"):
        assert not len(getattr(parts, name)), name
    assert not len(parts.held_out_novel)
    assert not len(parts.held_out_unknown)
    assert parts.novel_classes == parts.later_classes == []


def test_own_validation_calibrates_and_does_not_train() -> None:
    own = np.zeros(12, dtype=np.bool_)
    own[[4, 8]] = True
    parts = cut(service(), source([5, 3, 1], [2, 0, 1], validation=own))
    assert parts.validation_known.tolist() == [4, 8]
    assert parts.known_train.tolist() == [0, 1, 2, 3, 7, 9, 10]
    assert parts.class_counts == [4, 2, 1]


def test_a_class_without_training_images_is_named() -> None:
    own = np.zeros(6, dtype=np.bool_)
    own[3:] = True
    with pytest.raises(ConfigError, match="class 'c1' has no training image;"):
        cut(service(), source([3, 3], [0, 0], validation=own))


def test_a_calibration_slice_takes_whole_groups_of_large_classes_alone() -> None:
    groups = np.concatenate([np.arange(30) // 3, 10 + np.arange(24) // 2, 22 + np.arange(30) // 10])
    found = cut(service(validation_per_class=6), source([30, 24, 30], [0, 0, 0], groups))
    # 24 images are too few, and so are 3 groups
    assert set(range(30)).issuperset(found.validation_known.tolist())
    assert len(found.validation_known) == 6
    assert not set(groups[found.validation_known]) & set(groups[found.known_train])
    with pytest.raises(ConfigError, match=r"allowed in world service: 0 to 29.*received 30"):
        cut(service(validation_per_class=30), source([30, 24], [0, 0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"novel_classes": 3, "validation_novel_classes": 1}, "data.novel_classes: must be 0 in"),
        ({"profile": "natural"}, "data.profile: must be {natural: {keep: 1.0}} in world service"),
        ({"max_per_class": 5}, "data.max_per_class: must be null in world service"),
        ({"unlabelled": {"ratio": 1.0}}, "data.unlabelled.ratio: must be 0 in world service"),
        ({"stream": {"unrelated": 4}}, "data.stream.known: must be 0 in world service"),
    ],
)
def test_what_would_withhold_images_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        service(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_of_the_laboratory_moves_to_service_with_its_choices(tmp_path: Path) -> None:
    base = assign(Experiment(), {"data.validation_per_class": 5, "score.method": "knn"})
    found = in_service(base, {"data.source": "digits"})
    assert (found.data.world, found.data.validation_per_class, found.data.num_novel) == (
        "service",
        0,
        0,
    )
    assert found.score.method.name == "knn"
    assert found.score.threshold.name == "false_alarm"
    assert found.data.final_world == "service"
    assert found.data.validation_worlds == ("service",)
    by_set = load_experiment(None, ["data.world=service", "score.method=knn"])
    assert by_set.data == in_service(Experiment()).data
    assert by_set.score == found.score
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {world: service, source: digits}\nscore: {threshold: conformal}\n")
    assert load_experiment(recipe).score.threshold.name == "conformal"
    assert load_experiment(recipe).data == by_set.data


def test_parts_of_a_table_stay_what_they_are_called(tmp_path: Path) -> None:
    rows = [(f"{n}.png", f"class{n % 2}", f"g{n}", "train") for n in range(8)]
    rows += [("8.png", "class0", "g8", "test"), ("9.png", "class1", "g9", "val")]
    path = table(tmp_path, rows)
    views = build_views(service(source=f"table:{path}"), cache=tmp_path / "cache")
    sizes = views.summary["sizes"]
    assert (sizes["known_train"], sizes["validation_known"], sizes["held_out_known"]) == (8, 1, 1)
    assert views.validation_known.labels.tolist() == [1]
    assert views.summary["known_class_names"] == ["class0", "class1"]
    # the class without test images is no fault here, and val stays val
    told = look(service(source=f"table:{path}"), cache=tmp_path / "cache")
    assert told.lines() == []
    assert [row.trained for row in told.classes] == [4, 4]
    with pytest.raises(ConfigError, match=r"'class1'.*is in the train part only"):
        load_source(f"table:{path}", tmp_path, cache=tmp_path / "cache")


def test_a_table_that_says_the_parts_and_has_no_test_gets_none(tmp_path: Path) -> None:
    rows = [(f"{n}.png", f"class{n % 2}", "", "train") for n in range(20)]
    path = table(tmp_path, rows)
    views = build_views(service(source=f"table:{path}"), cache=tmp_path / "cache")
    assert views.summary["sizes"]["known_train"] == 20
    assert views.summary["sizes"]["held_out_known"] == 0
    laboratory = load_source(f"table:{path}", tmp_path, cache=tmp_path / "cache")
    assert int(laboratory.is_test.sum()) == 4  # it is split off, as before


def test_a_folder_without_parts_is_split_as_in_the_laboratory(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "photos", classes=2, train=10, test=0)
    views = build_views(service(source=f"folder:{folder}"), cache=tmp_path / "cache")
    laboratory = load_source(f"folder:{folder}", tmp_path, cache=tmp_path / "cache")
    held = views.index_lists["held_out_known"]
    assert held == np.flatnonzero(laboratory.is_test).tolist()
    assert len(held) == 4


def test_no_training_image_copies_or_neighbours_an_image_of_the_own_validation(
    tmp_path: Path,
) -> None:
    rows = [(f"{n}.png", f"class{n % 2}", f"g{n % 7}", "train") for n in range(14)]
    rows += [("20.png", "class0", "g3", "val"), ("21.png", "class1", "", "val")]
    path = table(tmp_path, rows)
    (tmp_path / "5.png").write_bytes((tmp_path / "21.png").read_bytes())
    found = load_source(f"table:{path}", tmp_path, cache=tmp_path / "cache", as_written=True)
    assert found.validation is not None
    assert int(found.validation.sum()) == 2
    # left out: 3 and 10 of the group g3, and 5, which copies a validation image
    assert sorted(Path(name).name for name in found.copies) == ["10.png", "3.png", "5.png"]
    again = load_source(f"table:{path}", tmp_path, cache=tmp_path / "cache", as_written=True)
    assert again.validation is not None  # as it was stored
    assert again.validation.tolist() == found.validation.tolist()
