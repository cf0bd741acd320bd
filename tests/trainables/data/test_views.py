"""The protocol: fixed order, disjoint parts, official counts and subsets, equal everywhere."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import GOLDEN
from tests.helpers.pictures import draw, draw_folder
from trainables.artifacts import LabelledView
from trainables.data.cuts.class_roles import split_in_halves
from trainables.data.protocol import cut, select_long_tail
from trainables.data.source_cache import Source, content_digest
from trainables.data.sources import load_source
from trainables.data.views import Views, build_views
from trainables.errors import ConfigError
from trainables.experiment import Data, Stream
from trainables.methods.profiles.natural import Natural
from trainables.settings import assign, build, flatten

VECTORS = np.load(GOLDEN / "protocol.npz")
DIGITS = load_source("digits", Path("unused"))


def digits(**changes: Any) -> Views:
    return build_views(build(Data, changes))


def global_state() -> bytes:
    """Return the state of the generator that the protocol must not touch."""
    return pickle.dumps(np.random.get_state())  # noqa: NPY002


def refused(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        digits(**changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def source(classes: int = 20, per_class: int = 40, supers: tuple[int, ...] | None = None) -> Source:
    """A source without content: 3/4 train, 1/4 test."""
    labels = np.tile(np.arange(classes), per_class)
    is_test = np.arange(len(labels)) >= classes * per_class * 3 // 4
    images = np.zeros((len(labels), 8, 8, 3), dtype=np.uint8)
    digest = content_digest(images, labels, is_test)
    names = tuple(f"c{n}" for n in range(classes))
    return Source(images, labels, is_test, names, supers, digest)


def test_subset_equals_official_code() -> None:
    case = "lt_selection_cifar100_exp_100_seed0"
    labels = np.arange(50_000) % 100
    counts = VECTORS["lt_counts_cifar100_exp_100/counts"].tolist()
    members = [np.flatnonzero(labels == c) for c in range(100)]
    kept, leftover = select_long_tail(members, counts, seed=0)
    selected = np.concatenate(kept)
    np.testing.assert_array_equal(selected, VECTORS[f"{case}/selected_indices"])
    np.testing.assert_array_equal(labels[selected], VECTORS[f"{case}/targets"])
    everything = np.concatenate([*kept, *leftover])
    assert sorted(everything.tolist()) == list(range(50_000))


def test_subsets_of_one_seed_are_nested_and_the_global_generator_is_left_alone() -> None:
    members = [np.arange(c, 1000, 10) for c in range(10)]
    state = global_state()
    small, _ = select_long_tail(members, [10] * 10, seed=3)
    large, _ = select_long_tail(members, [50] * 10, seed=3)
    other, _ = select_long_tail(members, [50] * 10, seed=4)
    assert global_state() == state
    for a, b, c in zip(small, large, other, strict=True):
        np.testing.assert_array_equal(a, b[:10])
        assert set(b) != set(c)


@pytest.mark.parametrize("world", ["validation", "test"])
def test_digits_defaults_give_seven_known_classes_and_no_empty_view(world: str) -> None:
    views = digits(world=world)
    assert views.known_train.num_classes == 7
    counts = np.bincount(views.known_train.labels)
    assert counts.tolist() == views.summary["class_counts"]
    assert (np.diff(counts) < 0).all()
    assert counts[0] / counts[-1] == pytest.approx(20, rel=0.1)
    for name, size in views.summary["sizes"].items():
        assert size > 0, name
    assert views.pool_labels.num_known == 7
    assert views.pool_labels.num_novel == (1 if world == "validation" else 2)
    assert set(views.pool_labels.labels) == {*range(7 + views.pool_labels.num_novel), -1}
    assert set(views.held_out_novel.labels) == set(range(7, 7 + views.pool_labels.num_novel))


CLOSED = {"novel_classes": 0, "validation_novel_classes": 0, "profile": "exponential"}


def test_a_closed_world_without_validation_has_the_published_images() -> None:
    data = build(
        Data,
        {**CLOSED, "validation_per_class": 0, "world": "test"}
        | {"profile": {"exponential": {"imbalance_factor": 100.0}}},
    )
    labels = np.arange(50_000 + 100) % 100
    is_test = np.arange(len(labels)) >= 50_000
    images = np.zeros((len(labels), 1, 1, 3), dtype=np.uint8)
    names = tuple(f"c{n}" for n in range(100))
    parts = cut(data, Source(images, labels, is_test, names, None, "digest"))
    assert parts.class_counts == VECTORS["lt_counts_cifar100_exp_100/counts"].tolist()
    expected = VECTORS["lt_selection_cifar100_exp_100_seed0/selected_indices"]
    np.testing.assert_array_equal(parts.known_train, expected)
    assert parts.known_classes == list(range(100))
    assert sorted(parts.held_out_known) == list(range(50_000, 50_100))
    for empty in (parts.validation_known, parts.validation_novel, parts.pool_novel):
        assert len(empty) == 0
    assert len(parts.held_out_novel) == 0


def test_a_closed_world_can_still_carve_a_validation() -> None:
    views = digits(**CLOSED, validation_per_class=10)
    assert views.known_train.num_classes == 10
    assert np.bincount(views.held_out_known.labels).tolist() == [5] * 10
    assert len(views.held_out_novel.indices) == len(views.validation_novel.indices) == 0
    assert views.pool_labels.num_novel == 0
    assert views.pool_labels.labels.min() == -1
    assert views.pool_labels.labels.max() == 9


def test_worlds_that_cannot_be_evaluated_are_refused() -> None:
    assert "0 (a closed world) or at least 2" in refused(novel_classes=1)
    assert "must be 0 if data.novel_classes is 0" in refused(novel_classes=0)
    assert "must be at least 1" in refused(validation_novel_classes=0)
    assert "0 requires data.world=test" in refused(**CLOSED, validation_per_class=0)
    assert "0 requires data.world=test" in refused(validation_per_class=0, world="test")


@pytest.mark.parametrize("world", ["validation", "test"])
@pytest.mark.parametrize("profile", ["exponential", "step", "balanced", "natural"])
def test_parts_are_disjoint_and_honest(world: str, profile: str) -> None:
    views = digits(world=world, profile=profile, novel_classes=4, validation_novel_classes=2)
    lists = {k: v for k, v in views.index_lists.items() if k != "pool_unrelated"}
    for (first, a), (second, b) in combinations(lists.items(), 2):
        assert not set(a) & set(b), (first, second)
    for name, indices in lists.items():
        held_out = world == "test" and name.startswith("held_out")
        assert set(DIGITS.is_test[indices].tolist()) <= {held_out}, name
        assert indices or name == "pool_known", name
    classes = views.summary
    known = set(classes["known_classes"])
    assert set(DIGITS.labels[lists["known_train"]]) == known
    assert set(DIGITS.labels[lists["pool_known"]]) <= known
    assert set(DIGITS.labels[lists["pool_novel"]]) == set(classes["novel_classes"])
    assert set(DIGITS.labels[lists["validation_novel"]]) == set(classes["validation_novel_classes"])
    assert not known & set(classes["novel_classes"])


def test_validation_and_test_worlds_share_what_is_upstream() -> None:
    rehearsal, final = digits(world="validation"), digits(world="test")
    for name in ("known_train", "validation_known", "validation_novel"):
        assert getattr(rehearsal, name).digest == getattr(final, name).digest
    for name in ("pool", "held_out_known", "held_out_novel"):
        assert getattr(rehearsal, name).digest != getattr(final, name).digest
    a, b = rehearsal.summary, final.summary
    assert not set(a["novel_classes"]) & set(b["novel_classes"])
    assert a["novel_classes"] == a["validation_novel_classes"] == b["validation_novel_classes"]


def test_validation_is_balanced_and_halved() -> None:
    views = digits(validation_per_class=11)
    assert np.bincount(views.validation_known.labels).tolist() == [6] * 7
    assert np.bincount(views.held_out_known.labels).tolist() == [5] * 7


def test_validation_is_carved_before_the_long_tail() -> None:
    """Another imbalance keeps the validation and every class's first images."""
    mild = digits(profile={"exponential": {"imbalance_factor": 2.0}})
    steep = digits(profile={"exponential": {"imbalance_factor": 50.0}})
    assert mild.validation_known.digest == steep.validation_known.digest
    assert set(steep.known_train.indices) < set(mild.known_train.indices)


def test_known_classes_keep_their_order_and_labels_are_renumbered() -> None:
    views = digits(novel_classes=5, validation_novel_classes=2, world="test")
    known = views.summary["known_classes"]
    assert known == sorted(known)
    originals = DIGITS.labels[views.known_train.indices]
    np.testing.assert_array_equal(np.array(known)[views.known_train.labels], originals)
    both = np.array([*known, *views.summary["novel_classes"]])
    originals = DIGITS.labels[views.held_out_novel.indices]
    np.testing.assert_array_equal(both[views.held_out_novel.labels], originals)
    assert views.summary["known_class_names"] == [str(c) for c in known]


def test_pool_labels_tell_the_truth_about_the_pool() -> None:
    views = digits(world="test")
    lists, summary = views.index_lists, views.summary
    classes = [*summary["known_classes"], *summary["novel_classes"]]
    own = {}
    for index in lists["pool_known"] + lists["pool_novel"]:
        own[DIGITS.images[index].tobytes()] = classes.index(DIGITS.labels[index])
    noise = load_source("noise", Path("unused"), 8)
    for index in lists["pool_unrelated"]:
        own[noise.images[index].tobytes()] = -1
    pool = views.pool
    assert len(pool.indices) == len(views.pool_labels.labels) == len(own)
    for index, label in zip(pool.indices, views.pool_labels.labels, strict=True):
        assert own[pool.images[index].tobytes()] == label


def test_pool_order_tells_nothing() -> None:
    labels = digits(world="test").pool_labels.labels
    changes = (np.diff(labels) != 0).sum()
    assert changes > len(labels) / 2


def test_stream_counts_are_upper_bounds() -> None:
    views = digits(stream={"known": 30, "novel": 20, "unrelated": 0})
    labels = views.pool_labels.labels
    assert [(labels < 7).sum(), (labels >= 7).sum(), (labels == -1).sum()] == [30, 20, 0]
    views = digits(profile="balanced", stream={"known": 10_000, "novel": 10_000})
    sizes = views.summary["sizes"]
    # A balanced profile keeps nearly all known images, so that few are left for the stream.
    assert sizes["pool_known"] < 100
    assert sizes["pool_novel"] == 64


def test_known_part_of_the_pool_is_spread_over_the_classes() -> None:
    views = digits(stream={"known": 60})
    counts = np.bincount(views.pool_labels.labels[views.pool_labels.labels >= 0], minlength=7)[1:7]
    assert counts.max() - counts.min() <= 1


def test_seed_changes_the_protocol_and_nothing_else_does() -> None:
    assert digits(seed=1).summary["protocol_hash"] != digits().summary["protocol_hash"]
    assert digits(seed=1).summary["known_classes"] != digits(seed=2).summary["known_classes"]
    state = global_state()
    assert digits() is not digits()
    assert digits().index_lists == digits().index_lists
    assert global_state() == state


def test_two_processes_get_identical_protocols() -> None:
    code = (
        "import json;"
        "from trainables.data.views import build_views;"
        "from trainables.experiment import Data;"
        "v = build_views(Data(world='test', seed=7));"
        "digests = [v.summary['protocol_hash'], v.pool.digest, v.known_train.digest];"
        "print(json.dumps([digests, v.index_lists]))"
    )
    command = [sys.executable, "-c", code]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    here = digits(world="test", seed=7)
    digests = [here.summary["protocol_hash"], here.pool.digest, here.known_train.digest]
    assert json.loads(there) == [digests, here.index_lists]


def test_digest_sees_labels_images_and_selection() -> None:
    base = digits().known_train.digest
    assert digits(image_size=16).known_train.digest != base
    assert digits(profile="balanced").known_train.digest != base
    assert digits(stream={"known": 5}).known_train.digest == base


def test_superclass_split_keeps_whole_superclasses_on_each_side() -> None:
    supers = tuple(c // 5 for c in range(50))
    data = Data(
        source="x",
        split="superclass",  # type: ignore[arg-type]
        novel_classes=20,
        validation_novel_classes=5,
        validation_per_class=4,
        world="test",
    )
    parts = cut(data, source(50, 40, supers))
    groups = [parts.known_classes, parts.validation_novel_classes, parts.novel_classes]
    sides = [{supers[c] for c in group} for group in groups]
    assert [len(side) for side in sides] == [6, 1, 3]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


def test_impossible_superclass_split_of_the_validation_is_refused() -> None:
    supers = tuple(c // 5 for c in range(50))
    data = Data(split="superclass", novel_classes=20, validation_novel_classes=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has 3 classes in total"):
        cut(data, source(50, 40, supers))


def test_subclass_split_gives_every_new_class_known_relatives() -> None:
    supers = tuple(c // 5 for c in range(50))
    data = Data(
        split="subclass",  # type: ignore[arg-type]
        novel_classes=20,
        validation_novel_classes=5,
        validation_per_class=4,
    )
    parts = cut(data, source(50, 40, supers))
    assert {supers[c] for c in parts.known_classes} == set(range(10))


def test_too_small_sources_are_refused_with_the_class_and_the_setting() -> None:
    assert "data.novel_classes" in refused(novel_classes=9)
    assert "2 to 8" in refused(novel_classes=9)
    message = refused(validation_per_class=200)
    assert "data.validation_per_class: class '" in message
    assert "training images, so at most" in message
    assert "at least 2" in refused(validation_per_class=1)
    assert "no superclasses" in refused(split="superclass")
    assert "must differ" in refused(stream={"unrelated_source": "digits"})
    assert "has no classes" in refused(source="noise")


def test_tiny_validation_novel_class_is_refused() -> None:
    small = source(classes=6, per_class=4)
    data = Data(validation_per_class=2)
    with pytest.raises(ConfigError, match=r"class 'c\d', a new class .* at least 4 are needed"):
        cut(data, small)


def test_folder_end_to_end_with_unrelated_images_of_another_size(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "mine", classes=6, train=30, test=5, size=(12, 12))
    for n in range(7):
        draw(tmp_path / f"others/deep/{n}.png", n, (40, 20), 500 + n)
    data = Data(
        source=f"folder:{folder}",
        root=str(tmp_path),
        validation_per_class=6,
        profile=Natural(keep=1.0),
        stream=Stream(unrelated_source=f"folder:{tmp_path / 'others'}"),
    )
    views = build_views(data)
    assert views.known_train.images.shape == (210, 12, 12, 3)
    assert views.pool.images.shape[1:] == (12, 12, 3)
    assert views.summary["class_counts"] == [24] * 3
    assert (views.pool_labels.labels == -1).sum() == 7
    assert views.summary["sizes"]["pool_known"] == 0


def test_natural_profile_keeps_unequal_classes(tmp_path: Path) -> None:
    for label in range(6):
        for n in range(20 + 10 * label):
            draw(tmp_path / f"mine/class{label}/{n:03}.png", label, noise=n)
    data = {"source": f"folder:{tmp_path / 'mine'}", "root": str(tmp_path), "seed": 1}
    settings = {**data, "validation_per_class": 4, "stream": {"unrelated": 0}}
    natural = build_views(build(Data, {**settings, "profile": {"natural": {"keep": 1.0}}})).summary
    balanced = build_views(build(Data, {**settings, "profile": "balanced"})).summary
    sizes = [round((20 + 10 * c) * 0.8) - 4 for c in natural["known_classes"]]
    assert natural["class_counts"] == sizes
    assert balanced["class_counts"] == [min(sizes)] * 3


# --- thresholds and the classes that judge them -------------------------------------------------


def classes_of(view: LabelledView) -> set[int]:
    return {int(c) for c in DIGITS.labels[view.indices]}


def test_two_validation_worlds_swap_the_classes_that_fit_and_judge_a_threshold() -> None:
    changes = {"novel_classes": 6, "validation_novel_classes": 4}
    one, other = (digits(world=w, **changes) for w in ("validation", "validation_swapped"))
    fitted, judged = classes_of(one.validation_novel), classes_of(one.held_out_novel)
    assert (len(fitted), len(judged)) == (2, 2)
    assert fitted | judged == set(one.summary["validation_novel_classes"])
    assert (classes_of(other.validation_novel), classes_of(other.held_out_novel)) == (
        judged,
        fitted,
    )
    for views, new in ((one, judged), (other, fitted)):
        assert set(views.summary["novel_classes"]) == new
        assert set(DIGITS.labels[views.index_lists["pool_novel"]]) == new
        assert len(views.held_out_unknown.indices) == 0
    for name in ("known_train", "validation_known", "held_out_known"):
        assert getattr(one, name).digest == getattr(other, name).digest


@pytest.mark.parametrize(("count", "fitting"), [(1, 0), (2, 1), (3, 1)])
def test_no_world_is_judged_on_the_classes_of_its_threshold(count: int, fitting: int) -> None:
    changes = {"novel_classes": 5, "validation_novel_classes": count}
    worlds = build(Data, changes).validation_worlds
    assert worlds == (("validation", "validation_swapped") if count > 1 else ("validation",))
    for world in (*worlds, "test"):
        views = digits(world=world, **changes)
        fitted = classes_of(views.validation_novel)
        judged = {*views.summary["novel_classes"], *classes_of(views.held_out_unknown)}
        assert not fitted & judged, world
        if world != "validation_swapped":
            assert len(fitted) == fitting
        names = [DIGITS.class_names[c] for c in sorted(fitted)]
        assert views.summary["threshold_class_names"] == names


def test_the_test_world_has_images_of_classes_that_no_model_learns() -> None:
    views = digits(world="test", novel_classes=5, validation_novel_classes=3)
    unknown, summary = views.held_out_unknown, views.summary
    assert DIGITS.is_test[unknown.indices].all()
    learned = {*summary["known_classes"], *summary["novel_classes"]}
    fitted = classes_of(views.validation_novel)
    assert classes_of(unknown) == set(summary["validation_novel_classes"]) - fitted
    assert not classes_of(unknown) & (learned | fitted)
    assert unknown.labels.min() == len(learned)
    assert unknown.num_classes == len(learned) + 2


def test_halves_keep_superclasses_together() -> None:
    supers = tuple(n % 4 for n in range(20))
    first, second = split_in_halves(source(supers=supers), [0, 1, 4, 5, 8, 9])
    assert (first, second) == ([0, 4, 8], [1, 5, 9])  # of superclass 0, of superclass 1
    assert split_in_halves(source(), [3]) == ([], [3])


def test_a_single_class_has_no_halves_to_swap() -> None:
    assert "requires data.validation_novel_classes of at least 2; received 1" in refused(
        world="validation_swapped"
    )


# --- new classes by name, and in phases -----------------------------------------------------------


@pytest.mark.parametrize("written", [["9", "2", "4"], [9, 2, 4], '["9", "2", "4"]'])
def test_new_classes_by_name(written: object) -> None:
    views = digits(novel_classes=written, world="test")
    summary = views.summary
    assert not {"9", "2", "4"} & set(summary["known_class_names"])
    assert len(summary["known_class_names"]) == 7
    named = {*summary["novel_class_names"], *summary["threshold_class_names"]}
    (validation,) = {"9", "2", "4"} - named
    assert named == {"9", "2", "4"} - {validation}
    chosen = digits(novel_classes=written, validation_novel_classes=["2"], world="test")
    assert chosen.summary["novel_class_names"] == ["4", "9"]
    assert chosen.summary["validation_novel_classes"] == [2]


def test_names_of_new_classes_survive_dump_and_flatten() -> None:
    data = build(Data, {"novel_classes": ["a", "b", 3], "validation_novel_classes": ["b"]})
    assert build(Data, data.model_dump(mode="json")) == data
    flat = {name: value for name, value in flatten(data).items() if "novel" in name}
    assert assign(Data(), flat) == data
    assert data.num_novel == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"novel_classes": ["1", "nine"]}, "has no class 'nine'; allowed: 0, 1, 2"),
        ({"novel_classes": ["1", "2", "1"]}, "names each class once; received '1' twice"),
        ({"novel_classes": ["1"]}, "at least 2, one for validation and one for the test"),
        ({"novel_classes": "1"}, "novel_classes: must be a whole number of at least 0, or a"),
        ({"novel_classes": -1}, "or a list of class names such as [daisy, rose]; received -1"),
        ({"novel_classes": [True, "2"]}, "or a list of class names"),
        ({"novel_classes": ["1", "2"], "split": "superclass"}, "data.split: must be random where"),
        ({"validation_novel_classes": ["1"]}, "data.novel_classes: must be a list of names where"),
        (
            {"novel_classes": ["daisy", "rose"], "validation_novel_classes": ["dasy"]},
            "'dasy' is none of data.novel_classes; allowed: daisy, rose; did you mean 'daisy'?",
        ),
        ({"novel_classes": [str(n) for n in range(9)]}, "2 to 8"),
        ({"phases": 3}, "data.phases: allowed: 1 to 2, the new classes of the test; received 3"),
        ({"phases": 2, "phase": 3}, "data.phase: allowed: 1 to data.phases=2; received 3"),
        ({**CLOSED, "phases": 2}, "data.phases: allowed: 1 to 1"),
    ],
)
def test_new_classes_that_cannot_be_are_one_line(changes: dict[str, object], words: str) -> None:
    assert words in refused(**changes)


def test_classes_of_later_phases_are_withheld_and_judged_as_unknown() -> None:
    plain = {"novel_classes": ["8", "1", "5", "3"], "validation_novel_classes": ["1"]}
    whole = digits(**plain, world="test")
    parts = [digits(**plain, world="test", phases=3, phase=n) for n in (1, 2, 3)]
    for views, learned, later in zip(
        parts, (["8"], ["5", "8"], ["3", "5", "8"]), (["3", "5"], ["3"], []), strict=True
    ):
        assert views.summary["novel_class_names"] == learned
        assert views.summary.get("later_class_names", []) == later
        ids = {int(name) for name in learned}
        assert set(DIGITS.labels[views.index_lists["pool_novel"]]) == ids
        assert set(DIGITS.labels[views.index_lists["held_out_novel"]]) == ids
        unknown = DIGITS.labels[views.index_lists["held_out_unknown"]]
        assert set(unknown) == {int(name) for name in later} | {1}
        hidden = set(DIGITS.labels[views.withheld.indices]) - {0, 2, 4, 6, 7, 9}
        assert hidden == {1, 3, 5, 8}
        assert views.held_out_unknown.labels.min() == 6 + len(learned)
    assert parts[2].summary["protocol_hash"] == whole.summary["protocol_hash"]
    assert parts[0].known_train.digest == whole.known_train.digest
    assert parts[0].pool.digest != parts[1].pool.digest != whole.pool.digest


def test_phases_change_nothing_in_the_validation_and_old_dumps_stay() -> None:
    plain, phased = digits(novel_classes=4), digits(novel_classes=4, phases=3, phase=2)
    assert phased.summary == plain.summary
    assert not {"phases", "phase"} & set(Data().model_dump(mode="json"))
