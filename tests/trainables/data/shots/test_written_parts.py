"""Parts of a sweep's images: those of `fit`, kept when a folder grows, and the laboratory's own."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.fitting.photo_folder import look_at_folder
from orchestrator.trials.service_recipe import outline, service_recipe
from tests.helpers.photos import photo, photo_folder
from trainables.data.shots.parts import place_of
from trainables.data.shots.photo_set import Photo
from trainables.data.shots.written_parts import WrittenParts, for_laboratory, write_parts
from trainables.experiment import Experiment, load_experiment

SIZES = {"lynx": 40, "ocelot": 30, "serval": 20, "margay": 1}


def recipe(source: str, *sets: str) -> Experiment:
    return load_experiment(None, [f"data.source={source}", "data.image_size=8", *sets])


def decide(tmp_path: Path, source: str = "", **more: str) -> WrittenParts:
    sets = [f"data.{name}={value}" for name, value in more.items()]
    base = recipe(source or f"folder:{tmp_path / 'cats'}", f"data.root={tmp_path}", *sets)
    return write_parts(base.data, tmp_path / "runs/models/cats/splits.jsonl")


def with_data(found: WrittenParts) -> Experiment:
    return Experiment().model_copy(update={"data": found.laboratory})


def rows(source: str) -> dict[str, dict[str, str]]:
    """Return the lines of a table by the last two names of the file."""
    with open(source.removeprefix("table:"), newline="", encoding="utf-8") as file:
        return {"/".join(row["path"].split("/")[-2:]): row for row in csv.DictReader(file)}


def held_out(source: str, *names: str) -> set[str]:
    """Return the test images, of some classes if they are named."""
    return {
        file
        for file, row in rows(source).items()
        if row["part"] == "test" and (not names or row["label"] in names)
    }


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "cats", SIZES)


def test_the_laboratory_never_meets_the_test_images_of_the_model_that_serves(
    tmp_path: Path, cats: Path
) -> None:
    found = decide(tmp_path)
    served, played = rows(found.served), rows(found.laboratory.source)
    assert len(served) == 91
    held = held_out(found.served)
    assert {file.split("/")[0] for file in held} == {"lynx", "ocelot"}  # 25 images or more
    assert 2 <= len(held_out(found.served, "lynx")) <= 16
    assert held_out(found.laboratory.source, "lynx", "ocelot") == held
    assert len(held_out(found.laboratory.source, "serval")) == 4  # 20 % of 20
    assert {row["part"] for row in served.values() if row["label"] == "serval"} == {"train"}
    assert set(served) - set(played) == {"margay/000.png"}  # one image can't train and test
    shares = Counter(row["part"] for row in served.values())
    assert found.lines[0] == (
        f"parts: {shares['train']} train, {shares['test']} test images in 91 shots, written down "
        f"once in {tmp_path / 'runs/models/cats/splits.jsonl'}"
    )
    assert found.lines[-1].startswith("too small for test images: margay, serval; all their images")
    assert service_recipe(with_data(found), {}, found.served).recipe.data.source == found.served


def test_images_stay_where_they_are_when_the_folder_grows_and_is_relabelled(
    tmp_path: Path, cats: Path
) -> None:
    first = decide(tmp_path)
    before, held = rows(first.served), held_out(first.served)
    text = Path(first.served.removeprefix("table:")).read_bytes()
    copied = min(held)
    photo_folder(tmp_path / "more", {"lynx": 60, "serval": 30}, first=1000)
    for file in (tmp_path / "more").rglob("*.png"):
        shutil.copy(file, cats / file.parent.name / f"new-{file.name}")
    shutil.copy(cats / copied, cats / copied.split("/")[0] / "copy.png")  # trains nobody
    turned = next(f for f, row in before.items() if row["part"] == "train" and "ocelot" in f)
    shutil.move(cats / turned, cats / "lynx" / "relabelled.png")
    again = decide(tmp_path)
    after = rows(again.served)
    assert after["lynx/relabelled.png"]["part"] == "train"
    assert {f: row["part"] for f, row in before.items() if f != turned} == {
        f: row["part"] for f, row in after.items() if f in before
    }
    assert not {f for f in after if f.endswith("/copy.png")}
    grown = {f for f in held_out(again.served) if "new-" in f}
    assert {f.split("/")[0] for f in grown} == {"lynx", "serval"}
    assert not held & {f for f, row in after.items() if row["part"] == "train"}
    assert any(line == f"left out: 1 files: copy.png (copy of the test image {copied})"
               for line in again.lines)  # fmt: skip
    # the tables that an earlier sweep began with are untouched
    assert again.served != first.served
    assert Path(first.served.removeprefix("table:")).read_bytes() == text


def test_fit_and_sweep_of_one_folder_agree_on_who_is_test(tmp_path: Path, cats: Path) -> None:
    found = decide(tmp_path)
    assert decide(tmp_path) == found
    fitted = look_at_folder(cats, tmp_path / "runs/models/cats")
    assert rows(fitted.source) == rows(found.served)
    other = look_at_folder(cats, tmp_path / "runs/models/other")
    assert rows(other.source) == rows(found.served)  # by content, not by chance


def test_own_parts_and_columns_of_a_table_are_kept(tmp_path: Path, cats: Path) -> None:
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["species", "file", "night", "use"])
        for number, path in enumerate(sorted(cats.glob("[los]*/*.png"))):
            part = ("train", "test", "val", "train")[number // 3 % 4]  # a night goes whole
            writer.writerow([path.parent.name, path, f"n{number // 3}", part])
    columns = "{label: species, group: night, split: use}"
    found = decide(tmp_path, f"table:{tmp_path / 'list.csv'}", columns=columns)
    own = {row["path"]: row for row in rows(found.served).values()}
    with (tmp_path / "list.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            kept = own[row["file"]]
            assert (kept["part"], kept["group"]) == (row["use"], row["night"])
    assert found.laboratory.columns.label is None
    assert held_out(found.laboratory.source) == held_out(found.served)
    source = outline(service_recipe(with_data(found), {}, found.served).recipe.data)
    assert source.validation is not None
    assert int(source.validation.sum()) == sum(r["part"] == "val" for r in own.values())


def test_superclasses_come_along_and_a_recipe_of_the_service_has_one_table(
    tmp_path: Path, cats: Path
) -> None:
    plain = decide(tmp_path)
    (cats / "superclasses.json").write_text('{"lynx": "big"}')
    found = decide(tmp_path)
    assert found.served != plain.served
    for source in (found.served, found.laboratory.source):
        beside = Path(source.removeprefix("table:")).with_name("superclasses.json")
        assert beside.read_text() == '{"lynx": "big"}'
    whole = decide(tmp_path, world="service")
    assert whole.laboratory.source == whole.served == found.served


def test_a_group_of_two_classes_is_not_parted_and_the_lowest_hash_plays_the_test() -> None:
    def one(label: str, group: str, part: str = "train") -> Photo:
        return Photo(Path(), label, part, group, group, group, (1, 1))  # type: ignore[arg-type]

    names = [f"g{number}" for number in range(10)]
    ordered = sorted(names, key=lambda name: place_of(name, 0))
    photos = [one("cat", name) for name in names] + [one("dog", ordered[1]), one("dog", "d")]
    found = for_laboratory(photos)
    assert {p.group for p in found if p.part == "test" and p.class_name == "cat"} == set(
        ordered[:2]
    )
    dogs = {p.group: p.part for p in found if p.class_name == "dog"}
    assert dogs == {ordered[1]: "test", "d": "train"}
    # a class that has a test keeps it, and gives no more
    own = [one("cat", "a", "test"), one("cat", "b"), one("cat", "c")]
    assert for_laboratory(own) == own


def test_a_copy_of_a_folder_under_another_label_is_named(tmp_path: Path, cats: Path) -> None:
    photo(cats / "serval/twice.png", 0)  # lynx/000.png
    found = decide(tmp_path)
    assert "lynx/000.png" not in rows(found.served)
    assert any("same image under labels lynx and serval" in line for line in found.lines)
