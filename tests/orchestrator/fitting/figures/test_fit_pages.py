"""The page of a fit, and suspect labels as a table: corrected, it is what `--labels` takes."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.fitting.figures.fit_pages import not_doubted, write_findings
from orchestrator.fitting.figures.photo_answers import Part, PhotoAnswers
from orchestrator.fitting.fit_record import FitRecord
from orchestrator.fitting.photo_folder import Found, look_at_folder
from orchestrator.fitting.screen import last_screen
from orchestrator.records import PromotionRecord
from orchestrator.report.fit_page import show_in_page
from orchestrator.report.photo_findings import Answers
from orchestrator.report.photo_sections import Section
from tests.orchestrator.fitting.test_screen import FIGURES, RECORD, rate

NAMES = ["cat", "dog"]


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of which one image is in the wrong folder: dog/5.png is a cat."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in NAMES:
        folder = tmp_path / "my pets" / name
        folder.mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "my pets"


def answers(found: Found) -> PhotoAnswers:
    """Return a sure answer to each image, all of them right but for dog/5.png."""
    photos = found.images.photos
    labels = np.array([NAMES.index(p.class_name) for p in photos])
    truth = [0 if p.file.match("dog/5.png") else NAMES.index(p.file.parent.name) for p in photos]
    sure = np.where(np.eye(2, dtype=bool)[truth], 0.9, 0.1)
    files = [str(p.file) for p in photos]
    part = Part(Answers(labels, sure, files, NAMES), np.eye(len(photos)), np.arange(len(photos)))
    nothing = Answers(labels[:0], sure[:0], [], NAMES)
    return PhotoAnswers(Part(nothing, part.features[:0], part.groups[:0]), part)


def record_of(found: Found, version: str) -> FitRecord:
    figures = FIGURES.model_copy(update={"by_class": dict.fromkeys(NAMES, rate(0.9, 0.8, 1.0))})
    promotion = PromotionRecord(model="pets", version=version, promoted=True, gates=[])
    update = {"photos": found.photos, "figures": figures, "promotion": promotion}
    return RECORD.model_copy(update=update)


def rows_of(table: Path) -> list[dict[str, str]]:
    with open(table, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_corrected_table_is_what_the_next_fit_takes(pets: Path, tmp_path: Path) -> None:
    model = tmp_path / "runs" / "models" / "pets"
    found = look_at_folder(pets, model)
    first = write_findings(record_of(found, "1"), answers(found), found.images, model)
    assert (first.suspects, first.report) == (
        {"train": 1, "test": 0},
        "runs/models/pets/report.html",
    )
    assert first.suspects_file == "runs/models/pets/suspects_1.csv"
    said = [line for line in last_screen(first, None) if "suspects_1.csv" in line]
    assert said == [
        "1 label may be wrong (1 train): correct the column label in "
        "runs/models/pets/suspects_1.csv, then give the same command --labels "
        "runs/models/pets/suspects_1.csv"
    ]
    table = Path(first.suspects_file)
    (row,) = rows_of(table)
    assert row["path"] == "dog/5.png"  # below the folder: it holds where the folder is moved to
    assert (row["label"], row["suggested"], row["part"]) == ("dog", "cat", "train")

    unchanged = look_at_folder(pets, model, labels=table)
    assert unchanged.digest == found.digest
    table.write_text(table.read_text().replace("dog/5.png,dog,", "dog/5.png,cat,"))
    corrected = look_at_folder(pets, model, labels=table)
    label_of = {p.file: p.class_name for p in corrected.images.photos}
    assert label_of[pets / "dog" / "5.png"] == "cat"
    assert [count.images for count in corrected.photos.classes] == [7, 5]
    assert corrected.digest != found.digest

    # the next table holds what was corrected, and the one that was edited is as it was
    edited = table.read_bytes()
    wrong_again = answers(corrected)
    wrong_again.train.answers.probabilities[0] = [0.05, 0.95]  # cat/0.png
    second = write_findings(record_of(corrected, "2"), wrong_again, corrected.images, model)
    assert table.read_bytes() == edited
    rows = [(row["path"], row["label"]) for row in rows_of(Path(second.suspects_file))]
    assert rows == [("cat/0.png", "cat"), ("dog/5.png", "cat")]
    again = look_at_folder(pets, model, labels=Path(second.suspects_file))
    assert again.digest == corrected.digest

    shutil.move(pets, tmp_path / "moved")
    moved = look_at_folder(tmp_path / "moved", model, labels=Path(second.suspects_file))
    assert moved.digest == corrected.digest


def test_the_page_shows_what_answers_tell(pets: Path, tmp_path: Path) -> None:
    model = tmp_path / "runs"
    found = look_at_folder(pets, model)
    write_findings(record_of(found, "1"), answers(found), found.images, model)
    page = (model / "report.html").read_text(encoding="utf-8")
    titles = ["Confusions", "Weakest classes", "Surest mistakes", "Suspect labels", "Classes"]
    places = [page.index(f"<h2>{title}</h2>") for title in titles]
    assert places == sorted(places)
    assert "<b>dog</b> taken for <b>cat</b>" in page
    assert "1 of 6 (17 %)" in page
    assert "dog → cat?" in page
    assert page.count('src="data:image/jpeg;base64,') == 6  # confusion, mistake and 3 near, suspect
    assert "http" not in page.replace("http-equiv", "")
    assert str(tmp_path) not in page
    assert "<code>suspects_1.csv</code>" in page


def test_classes_that_the_model_does_not_tell_are_not_doubted() -> None:
    """By hand: of three dogs two count for cats, and the only fox does; a cat needs .9."""
    names = ["cat", "dog", "fox"]
    sure = [[0.9, 0.1, 0], [0.9, 0.1, 0], [0.95, 0.05, 0], [0.95, 0.05, 0], [0.1, 0.9, 0]]
    train = Answers(np.array([0, 0, 1, 1, 1]), np.array(sure), "abcde", names)
    test = Answers(np.array([0, 2]), np.array([[0.9, 0.1, 0], [0.95, 0, 0.05]]), "fg", names)
    nothing = Answers(np.zeros(0, dtype=np.int64), np.zeros((0, 3)), "", names)
    assert not_doubted(train, nothing) == ["dog"]
    assert not_doubted(test) == ["fox"]
    assert not_doubted(train, test) == ["dog", "fox"]
    assert not_doubted(nothing) == []


def test_without_suspects_there_is_no_table(pets: Path, tmp_path: Path) -> None:
    (pets / "dog" / "5.png").unlink()
    found = look_at_folder(pets, tmp_path / "runs")
    record = write_findings(record_of(found, "1"), answers(found), found.images, tmp_path / "runs")
    assert record.suspects_file == ""
    assert not list((tmp_path / "runs").glob("suspects*"))
    assert not any("may be wrong" in line for line in last_screen(record, None))


def test_a_thousand_classes_are_a_short_table(pets: Path, tmp_path: Path) -> None:
    found = look_at_folder(pets, tmp_path / "runs")
    names = [f"class {n:03d}" for n in range(1000)]
    by_class = dict.fromkeys(names, rate(0.9, 0.8, 1.0))
    counts = [found.photos.classes[0].model_copy(update={"name": name}) for name in names]
    record = record_of(found, "1")
    record = record.model_copy(
        update={
            "figures": record.figures.model_copy(update={"by_class": by_class}),
            "photos": found.photos.model_copy(update={"classes": counts}),
        }
    )
    write_findings(record, answers(found), found.images, tmp_path / "runs")
    page = (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")
    shown, _, hidden = page.partition("<details><summary>970 more</summary>")
    assert shown.count("<td><b>class ") == 30
    assert hidden.count("<td><b>class ") == 970


def test_what_images_of_no_class_look_like_is_shown_and_taken_away(
    pets: Path, tmp_path: Path
) -> None:
    model = tmp_path / "runs"
    found = look_at_folder(pets, model)
    write_findings(record_of(found, "1"), answers(found), found.images, model)
    page = model / "report.html"
    before = page.read_text(encoding="utf-8")
    for text in ("<p>first</p>", "<p>second \\1</p>"):
        show_in_page(page, Section("No <class>", text))
        now = page.read_text(encoding="utf-8")
        assert f"<h2>No &lt;class&gt;</h2>\n{text}\n</section>" in now
        assert now.count("<h2>") == before.count("<h2>") + 1
        places = [
            now.index(f"<h2>{t}</h2>") for t in ("Suspect labels", "No &lt;class&gt;", "Classes")
        ]
        assert places == sorted(places)
    show_in_page(page, None)
    assert page.read_text(encoding="utf-8") == before


def test_a_page_that_is_gone_or_of_before_stays_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    show_in_page(page, Section("title", "text"))
    assert not page.exists()
    page.write_text("<p>of before</p>", encoding="utf-8")
    show_in_page(page, Section("title", "text"))
    assert page.read_text(encoding="utf-8") == "<p>of before</p>"
