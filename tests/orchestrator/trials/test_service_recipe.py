"""The recipe that serves: what travels from the laboratory, and what is done otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.trials.service_recipe import (
    answers_out_of_fold,
    check_service,
    ends_in_service,
    outline,
    service_recipe,
)
from tests.helpers.pictures import draw
from trainables.errors import ConfigError
from trainables.experiment import Experiment, load_experiment
from trainables.settings import assign

SIZES = {"ant": 40, "bee": 30, "cat": 25, "dog": 24}
FROZEN = ("pretrain.method=pretrained", "classify.trunk=frozen", "rebalance.method=ridge")


def photos(root: Path, sizes: dict[str, int], part: str = "train") -> None:
    for number, (name, count) in enumerate(sizes.items()):
        for n in range(count):
            draw(root / part / name / f"{n:02}.png", number, noise=n)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos(tmp_path / "photos", SIZES)
    photos(tmp_path / "photos", dict.fromkeys(SIZES, 2), "test")
    return tmp_path / "photos"


def recipe(folder: Path, *sets: str) -> Experiment:
    sets = (f"data.source=folder:{folder}", f"data.root={folder.parent}", *sets)
    plain = load_experiment(None, [text for text in sets if text not in FROZEN])
    # without looking for weights: nothing is loaded here
    return assign(plain, dict(text.split("=", 1) for text in sets if text in FROZEN))


def test_own_images_alone_end_in_service(folder: Path) -> None:
    assert ends_in_service(recipe(folder))
    for source in ("digits", "cifar100"):
        assert not ends_in_service(assign(Experiment(), {"data.source": source}))


def test_a_trained_trunk_leaves_out_as_many_images_as_a_threshold_needs(folder: Path) -> None:
    found = service_recipe(recipe(folder, "data.validation_per_class=4"), {"seed": 3})
    data = found.recipe.data
    assert (data.world, data.num_novel, found.recipe.seed) == ("service", 0, 3)
    # 3 classes of 25 images or more, and a level of 5 % needs 19 images: 7 each
    assert data.validation_per_class == 7
    assert (
        found.recipe.score.threshold.dump()
        == assign(Experiment(), {"score.threshold": "false_alarm"}).score.threshold.dump()
    )
    assert found.notes == [
        "its trunk is trained on these images, so 7 images of each of the 3 classes of 25 or more "
        "calibrate, and do not train",
        "its threshold is set for a false alarm of 5 %, not by 'precision'",
    ]


@pytest.mark.parametrize(
    ("per_class", "level", "left_out"),
    [(40, 0.05, 8), (40, 0.5, 8), (4, 0.5, 2), (4, 0.1, 3)],
    ids=["a third of the smallest", "whatever the level", "half of its own", "9 of 3 classes"],
)
def test_images_that_calibrate_are_few(
    folder: Path, per_class: int, level: float, left_out: int
) -> None:
    base = recipe(folder, f"score.threshold={{false_alarm: {{level: {level}}}}}")
    found = service_recipe(base, {"data.validation_per_class": per_class})
    assert found.recipe.data.validation_per_class == left_out
    assert found.recipe.score.threshold.level == level  # type: ignore[attr-defined]
    assert len(found.notes) == 1


def test_a_class_that_gives_images_away_keeps_one(folder: Path) -> None:
    base = recipe(folder, "data.validation_per_class=4")
    # 3 classes, the smallest has 25: 24 of each make 72, and 75 would take all
    found = service_recipe(base, {"score.threshold": {"false_alarm": {"level": 1 / 73}}})
    assert found.recipe.data.validation_per_class == 24
    with pytest.raises(ConfigError, match=r"3 classes of 25 images .* too few to keep 75 images"):
        service_recipe(base, {"score.threshold": {"false_alarm": {"level": 1 / 76}}})


def test_groups_and_own_validation_images_count(folder: Path, tmp_path: Path) -> None:
    lines = ["path,label,part,group"]
    groups = {"ant": 40, "bee": 4, "cat": 5, "dog": 24}  # 4 are too few to give one away
    for file in sorted(folder.rglob("*.png")):
        part, name = file.parent.parent.name, file.parent.name
        group = f"{name}{int(file.stem) % groups[name]}" if part == "train" else ""
        lines.append(f"{file},{name},{part},{group}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    base = recipe(folder, f"data.source=table:{tmp_path / 'list.csv'}")
    found = service_recipe(base, {"data.validation_per_class": 4})
    assert found.recipe.data.validation_per_class == 10  # 19 of 2 classes
    assert "10 images of each of the 2 classes" in found.notes[0]
    photos(folder, dict.fromkeys(SIZES, 6), "val")
    chooses = {"rebalance.method": "ridge", "rebalance.method.ridge.chosen_by": "validation",
               "data.validation_per_class": 2}  # fmt: skip
    found = service_recipe(recipe(folder, *FROZEN), chooses)
    assert found.recipe.data.validation_per_class == 1  # 24 of its own set the threshold already
    assert "1 images of each of the 3 classes" in found.notes[0]  # dog: 24 train, 6 do not


def test_written_parts_take_the_place_of_the_laboratorys(folder: Path, tmp_path: Path) -> None:
    files = sorted((folder / "train").rglob("*.png"))
    rows = [f"{file},{file.parent.name},{'test' if file.stem == '03' else 'train'}"
            for file in files]  # fmt: skip
    (tmp_path / "served.csv").write_text("\n".join(["path,label,part", *rows]))
    base = recipe(folder, *FROZEN)
    found = service_recipe(base, {"seed": 3}, f"table:{tmp_path / 'served.csv'}").recipe
    assert (found.data.source, found.seed) == (f"table:{tmp_path / 'served.csv'}", 3)
    assert int(outline(found.data).is_test.sum()) == 4
    assert service_recipe(base, {}).recipe.data.source == base.data.source


def test_closed_form_on_a_frozen_trunk_trains_on_every_image(folder: Path) -> None:
    base = recipe(folder, *FROZEN, "score.threshold=false_alarm")
    found = service_recipe(base, {"rebalance.method": "lda"})
    assert answers_out_of_fold(found.recipe)
    assert (found.recipe.data.validation_per_class, found.notes) == (0, [])
    assert found.recipe.rebalance.method.name == "lda"


def test_a_frozen_trunk_that_these_images_trained_answers_nothing_out_of_fold(
    folder: Path,
) -> None:
    still = assign(recipe(folder, *FROZEN), {"pretrain.method": "simclr"})
    assert not still.trunk_tuner().moves
    assert not answers_out_of_fold(still)
    frozen = recipe(folder, *FROZEN)
    assert answers_out_of_fold(frozen)
    assert answers_out_of_fold(assign(frozen, {"rebalance.method": "tuned"}))  # over closed forms


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("tau_norm", "'tau_norm' starts from a classifier trained on all images"),
        ("{ridge: {chosen_by: validation}}", "'ridge' chooses by validation images"),
    ],
)
def test_what_needs_validation_images_gets_some(folder: Path, method: str, why: str) -> None:
    changes = {"rebalance.method": method}
    if method.startswith("{"):
        changes = {"rebalance.method": "ridge", "rebalance.method.ridge.chosen_by": "validation"}
    found = service_recipe(recipe(folder, *FROZEN), changes)
    assert found.recipe.data.validation_per_class == 8  # a third of the 25 of cat
    assert why in found.notes[0]


def test_own_validation_images_calibrate(folder: Path) -> None:
    photos(folder, dict.fromkeys(SIZES, 6), "val")
    found = service_recipe(recipe(folder), {})
    assert found.recipe.data.validation_per_class == 0
    assert "the 24 images of its own validation part calibrate" in found.notes[0]


def test_batch_norm_of_a_frozen_trunk_stays_as_it_came(folder: Path) -> None:
    found = service_recipe(recipe(folder, *FROZEN), {"extract.batchnorm": "shifted"})
    assert found.recipe.extract.batchnorm == "frozen"
    assert found.notes[-1].startswith("batch norm stays as pretrained")
    moved = service_recipe(recipe(folder), {"extract.batchnorm": "shifted"})
    assert moved.recipe.extract.batchnorm == "shifted"


def test_what_cannot_serve_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    learns = {"data.unlabelled.ratio": 1.0, "classify.self_trainer": "hard_labels"}
    with pytest.raises(ConfigError, match=r"learns from unlabelled images.*--no-promote") as caught:
        service_recipe(recipe(folder), learns)
    assert "\n" not in str(caught.value)
    photos(tmp_path / "few", dict.fromkeys(SIZES, 24))
    with pytest.raises(ConfigError, match=r"there are 0 classes of 25 images or more.*19 images"):
        check_service(recipe(tmp_path / "few"))
    check_service(recipe(tmp_path / "few", *FROZEN))


def test_a_class_without_a_training_image_is_refused(folder: Path) -> None:
    photos(folder, {"eel": 3}, "test")
    with pytest.raises(ConfigError, match="class 'eel' has no training image"):
        check_service(recipe(folder))


def test_a_recipe_of_the_service_stays_as_it_is(folder: Path) -> None:
    base = recipe(folder, "data.world=service", "data.validation_per_class=9")
    found = service_recipe(base, {"seed": 4})
    assert found.recipe == assign(base, {"seed": 4})
    assert found.notes == []
