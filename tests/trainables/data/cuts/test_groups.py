"""Groups of images that must not be parted, from the table to the stages."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.pictures import draw
from trainables.artifacts import Classifier
from trainables.data.cuts.groups import number_groups, whole_groups
from trainables.data.data_settings import Data
from trainables.data.faults import DataError
from trainables.data.folders import Loaded, read_folder
from trainables.data.look import look
from trainables.data.source_names import Columns
from trainables.data.sources import load_source
from trainables.data.views import build_views
from trainables.errors import ConfigError
from trainables.methods.heads import Head
from trainables.methods.rebalancers import Rebalancer
from trainables.settings import build

CLASSES = 5


def write(
    root: Path, groups: int = 12, shots: int = 3, shared: bool = False, parts: bool = False
) -> Path:
    """Write a table of five classes of ``groups`` groups of ``shots`` images, and return it.

    ``shared``: every third group has images of the next class too. ``parts``: with a column of
    parts, which puts one image in five into the test.
    """
    lines = ["path,label,group" + (",split" if parts else "")]
    number = 0
    for label in range(CLASSES):
        for group in range(groups):
            for shot in range(shots):
                draw(root / f"images/{number}.png", label, noise=number)
                named = (label + (shared and group % 3 == 0 and shot == 0)) % CLASSES
                part = f",{'test' if number % 5 == 0 else 'train'}" if parts else ""
                lines.append(f"images/{number}.png,class{named},animal{label}-{group}{part}")
                number += 1
    (root / "mine.csv").write_text("\n".join(lines), encoding="utf-8")
    return root / "mine.csv"


def read(table: Path, **columns: str) -> Loaded:
    return read_folder(
        table,
        None,
        skip_unreadable=False,
        cache=table.parent / "cache",
        columns=build(Columns, columns),
    )


def settings(table: Path, **changes: object) -> Data:
    plain: dict[str, object] = {
        "source": f"table:{table}",
        "root": str(table.parent),
        "validation_per_class": 6,
        "stream": {"unrelated": 0},
    }
    return build(Data, {**plain, **changes})


def test_images_without_a_group_are_alone() -> None:
    assert number_groups(["b", "", "a", "b", ""]).tolist() == [1, 2, 0, 1, 3]  # type: ignore[union-attr]
    assert number_groups(["", ""]) is None


@pytest.mark.parametrize("seed", range(20))
def test_groups_go_whole_and_each_class_gets_about_its_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, 900)
    groups = rng.integers(0, 150, 900)  # each group has images of several classes
    part = whole_groups(labels, groups, {c: [20, 20] for c in range(6)}, rng)
    for group in range(150):
        assert len(set(part[groups == group])) <= 1
    for label in range(6):
        counts = np.bincount(part[labels == label], minlength=3)
        assert (counts[:2] >= 10).all()
        assert counts[2] > 60


def test_single_group_of_a_class_and_huge_groups_are_for_training() -> None:
    labels = np.array([0] * 100 + [1] * 8)
    groups = np.array([0] * 90 + list(range(1, 11)) + [11] * 8)
    for seed in range(10):
        part = whole_groups(labels, groups, {0: [4], 1: [2]}, np.random.default_rng(seed))
        assert set(part[:90]) == set(part[100:]) == {1}
        assert (part[90:100] == 0).sum() == 4


@pytest.mark.parametrize("shared", [False, True])
def test_test_that_is_split_off_has_whole_groups(shared: bool, tmp_path: Path) -> None:
    source, faults = read(write(tmp_path, shared=shared))
    assert faults == []
    assert source.groups is not None
    assert not set(source.groups[source.is_test]) & set(source.groups[~source.is_test])
    share = np.bincount(source.labels[source.is_test]) / np.bincount(source.labels)
    assert ((share > 0.1) & (share < 0.35)).all()
    again, _ = read(tmp_path / "mine.csv")
    np.testing.assert_array_equal(again.groups, source.groups)
    alone, _ = read(tmp_path / "mine.csv", group="")
    assert alone.groups is None
    assert set(source.groups[alone.is_test]) & set(source.groups[~alone.is_test])


def test_training_images_of_a_group_with_test_images_are_left_out(tmp_path: Path) -> None:
    table = write(tmp_path, groups=10, shots=2, parts=True)
    source, faults = read(table)
    assert source.groups is not None
    assert len(source.images) == 80
    assert not set(source.groups[source.is_test]) & set(source.groups[~source.is_test])
    (fault,) = faults
    assert "that are copies of test images or share a group with some left out (20)" in fault.text
    assert not fault.fatal


def test_file_in_two_groups_is_refused(tmp_path: Path) -> None:
    table = write(tmp_path)
    with table.open("a", encoding="utf-8") as file:
        file.write("\nimages/0.png,class0,animal0-1")
    with pytest.raises(DataError, match="the group 'animal0-1', line 2 'animal0-0'"):
        read(table)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("world", ["validation", "test"])
def test_no_group_is_in_two_views_that_judge(world: str, shared: bool, tmp_path: Path) -> None:
    data = settings(write(tmp_path, groups=20, shared=shared), world=world)
    groups = load_source(data.source, tmp_path).groups
    assert groups is not None
    views = build_views(data)
    held = ("known_train", "validation_known", "held_out_known")
    for first, second in combinations(held, 2):
        both = [set(groups[views.index_lists[name]]) for name in (first, second)]
        assert not both[0] & both[1], (first, second)
    novel = ("validation_novel", "pool_novel", "held_out_novel")
    for first, second in combinations(novel, 2):
        both = [set(groups[views.index_lists[name]]) for name in (first, second)]
        assert not both[0] & both[1], (first, second)
    assert all(views.index_lists[name] for name in (*held, *novel))
    np.testing.assert_array_equal(
        views.known_train.groups, groups[views.index_lists["known_train"]]
    )
    for decode in (False, True):
        assert look(data, decode=decode).faults == ()


def test_groups_of_a_view_count_in_its_digest(tmp_path: Path) -> None:
    for number in (0, 1):
        write(tmp_path / str(number))
    table = tmp_path / "1/mine.csv"
    table.write_text(table.read_text().replace("animal0-1\n", "animal0-0\n"))
    one, two = (build_views(settings(tmp_path / f"{n}/mine.csv")) for n in (0, 1))
    assert one.known_train.digest != two.known_train.digest


def test_class_of_two_groups_trains_and_gives_nothing_to_the_validation(tmp_path: Path) -> None:
    table = write(tmp_path, groups=15)
    lines = table.read_text().splitlines()
    for n in range(20):
        draw(tmp_path / f"images/few{n}.png", 9, noise=5000 + n)
        lines.append(f"images/few{n}.png,few,herd{n % 3}")
    table.write_text("\n".join(lines))
    data = settings(table, novel_classes=["class0", "class1"])
    found = look(data)
    (fault,) = found.faults
    assert not fault.fatal
    assert "class 'few' gives no image to the validation, it has at most 2 groups" in fault.text
    views = build_views(data)
    few = views.summary["known_class_names"].index("few")
    assert few in views.known_train.labels
    assert few not in views.validation_known.labels


def test_new_class_of_too_few_groups_is_refused(tmp_path: Path) -> None:
    table = write(tmp_path, groups=4, shots=4)
    text = table.read_text().replace("animal0-1", "animal0-0").replace("animal0-2", "animal0-0")
    table.write_text(text)
    data = settings(
        table,
        novel_classes=["class0", "class1"],
        validation_novel_classes=["class0"],
        validation_per_class=2,
    )
    with pytest.raises(ConfigError, match="class 'class0', a new class for validation, has groups"):
        build_views(data)


def test_closed_forms_leave_groups_out_together() -> None:
    """Five equal copies per shot: alone they answer for each other, as a group they don't."""
    generator = torch.Generator().manual_seed(0)
    shots = torch.randn(24, 30, generator=generator, dtype=torch.float64)
    features = shots.repeat_interleave(5, 0).float()
    labels = torch.arange(3).repeat_interleave(40)
    groups = torch.arange(24).repeat_interleave(5)
    head = Head.parse("linear")
    counts = torch.full((3,), 40)
    classifier = Classifier(head, 30, {}, torch.zeros(3), counts, torch.zeros(30))
    method = Rebalancer.parse({"ridge": {}})
    given = {"classifier": classifier, "features": features, "labels": labels}
    alone, together = (
        method.call_with({**given, **more}, "fit") for more in ({}, {"groups": groups})
    )
    right = [(fit.logits.argmax(1) == labels).float().mean().item() for fit in (alone, together)]
    assert right[0] > right[1] + 0.3
    applied = method.call_with({**given, "groups": groups})
    for name, tensor in applied.state.items():
        torch.testing.assert_close(tensor, together.classifier.state[name])
