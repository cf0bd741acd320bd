"""Sections with pictures: the right photos beside the right names, whatever these hold."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.report.photo_findings import Answers, Suspect, suspects_csv
from orchestrator.report.photo_sections import (
    MOST_CLASSES,
    MOST_SUSPECTS,
    PER_CLUSTER,
    PER_PAIR,
    Neighbors,
    answer_sections,
    loose_section,
    suspect_section,
    suspects_of,
    thumbnail,
)

EVIL = '<script>alert("x")</script>'
COLORS = {"lynx": (200, 30, 30), "ocelot": (30, 200, 30), EVIL: (30, 30, 200)}
NAMES = [*COLORS]


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, str]:
    """Return six photos by a short name: two of each class, in its color."""
    found = {}
    for number, (name, color) in enumerate(COLORS.items()):
        for copy in range(2):
            folder = tmp_path / ("evil" if name == EVIL else name)
            folder.mkdir(exist_ok=True)
            file = folder / f"{copy}.png"
            Image.new("RGB", (300, 200), color).save(file)
            found[f"{number}{copy}"] = str(file)
    return found


def answers(photos: dict[str, str]) -> Answers:
    """Return answers in which one lynx is called an ocelot, and one ocelot by the odd name."""
    sure = np.array(
        [[0.9, 0.1, 0], [0.05, 0.95, 0], [0.2, 0.8, 0], [0.1, 0.3, 0.6], [0, 0, 1], [0, 0.1, 0.9]]
    )
    return Answers(np.array([0, 0, 1, 1, 2, 2]), sure, list(photos.values()), NAMES)


def colors_of(html: str) -> list[str]:
    """Return the class whose color each picture has, in the order of the page."""
    found = []
    for text in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html):
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            pixel = np.array(picture.convert("RGB").resize((1, 1)))[0, 0]
        found.append(min(COLORS, key=lambda n: float(np.abs(pixel - np.array(COLORS[n])).sum())))
    return found


def test_pictures_stand_beside_their_names(photos: dict[str, str]) -> None:
    sections = {section.title: section.html for section in answer_sections(answers(photos))}
    assert list(sections) == ["Confusions", "Weakest classes", "Surest mistakes"]
    assert colors_of(sections["Confusions"]) == ["lynx", "ocelot"]
    assert "<b>lynx</b> taken for <b>ocelot</b>" in sections["Confusions"]
    assert "1 of 2 (50 %)" in sections["Confusions"]
    assert colors_of(sections["Surest mistakes"]) == ["lynx", "ocelot"]
    assert "<b>lynx</b> called <b>ocelot</b>" in sections["Surest mistakes"]
    assert "95 % sure" in sections["Surest mistakes"]
    rows = re.findall(r"<tr><td><b>(.+?)</b>", sections["Weakest classes"])
    assert rows[:2] == ["lynx", "ocelot"]


def test_a_mistake_stands_beside_the_training_images_that_look_most_alike(
    photos: dict[str, str],
) -> None:
    files = list(photos.values())
    features = np.eye(3)[[0, 1, 1, 2, 2, 2]]  # the wrong lynx looks like an ocelot
    near = Neighbors(features, np.eye(3), [files[0], files[2], files[4]], ["x1", "x2", "x3"])
    html = answer_sections(answers(photos), near)[2].html
    assert [colors_of(part)[:2] for part in html.split('class="finding"')[1:]] == [
        ["lynx", "ocelot"],
        ["ocelot", EVIL],
    ]
    assert "the training images that look most alike" in html
    assert re.findall(r"<figcaption>(x\d)", html)[:1] == ["x2"]  # the class, not the folder


def test_names_are_text_and_never_markup(photos: dict[str, str]) -> None:
    odd = Suspect(next(iter(photos.values())), EVIL, "lynx", 0.1, 0.9)
    for section in [*answer_sections(answers(photos)), suspect_section({"test": [odd]}, EVIL)]:
        assert "<script" not in section.html
        assert "http" not in section.html
    assert "&lt;script&gt;" in section.html


def test_suspects_are_shown_by_part_and_the_rest_is_counted(photos: dict[str, str]) -> None:
    files = list(photos.values())
    found = [Suspect(files[n % 6], "lynx", "ocelot", 0.1, 0.9) for n in range(MOST_SUSPECTS + 5)]
    html = suspect_section({"train": found, "test": []}, "photos_suspects.csv").html
    assert len(colors_of(html)) == MOST_SUSPECTS
    assert f'training images <span class="quiet">{MOST_SUSPECTS + 5}</span>' in html
    assert "And 5 more." in html
    assert "No label looks wrong." in html
    assert "lynx → ocelot?" in html
    assert "<code>photos_suspects.csv</code>" in html
    assert "--labels" not in suspect_section({"train": []}, "x.csv").html


def test_training_and_test_images_are_judged_apart(photos: dict[str, str]) -> None:
    found = suspects_of(None, answers(photos))
    assert list(found) == ["test"]
    # thresholds: lynx .475, ocelot .55, the third .95; only .95 for ocelot is above its own
    assert [(s.label, s.suggested) for s in found["test"]] == [("lynx", "ocelot")]
    assert suspects_csv(found).count("\n") == 2
    both = suspects_of(answers(photos), answers(photos))
    assert list(both) == ["train", "test"]


def test_a_moved_or_broken_photo_leaves_its_name(photos: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "lynx" / "1.png").write_text("no image", encoding="utf-8")
    html = answer_sections(answers(photos))[0].html
    assert '<span class="gone">lynx/1.png</span>' in html
    assert colors_of(html) == ["ocelot"]
    assert str(tmp_path) not in html


def test_thumbnails_are_small_and_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (4000, 3000), (10, 200, 10))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    text = thumbnail(str(tmp_path / "turned.jpg"))
    with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))) as picture:
        assert picture.size == (120, 160)
    assert len(text) < 10_000


def test_nothing_wrong_is_said(photos: dict[str, str]) -> None:
    right = Answers(np.array([0, 1]), np.eye(2, 3), list(photos.values())[:2], NAMES)
    pairs, classes, mistakes = answer_sections(right)
    assert "No image was named wrongly." in pairs.html
    assert "No image was named wrongly." in mistakes.html
    assert "100 %" in classes.html


def test_images_of_no_class_are_shown_as_what_they_look_like(photos: dict[str, str]) -> None:
    one, two, three = ([photos[f"{number}0"], photos[f"{number}1"]] for number in range(3))
    html = loose_section(
        {EVIL: three, "lynx": one[:1]},
        [("lynx", two * 8)],
        one[1:],
        images=2200,
        asked=20,
        unreadable=["<b>.png"],
    ).html
    assert "<script" not in html
    assert "2,200 images lie beside the class folders" in html
    assert "Nobody labelled them, and none trains or tests" in html
    assert "which was asked about 20 of them" in html
    assert 'taken for known classes <span class="quiet">3</span>' in html
    assert 'called unknown <span class="quiet">17</span>' in html
    assert "<b>16 look alike among themselves</b>" in html
    assert "nearest class: lynx" in html
    assert "<b>1 of no cluster</b>" in html
    assert colors_of(html) == [EVIL, EVIL, "lynx", *["ocelot"] * PER_CLUSTER, "lynx"]
    assert "Unreadable: &lt;b&gt;.png." in html


def test_of_many_classes_and_images_some_are_shown(photos: dict[str, str]) -> None:
    files = list(photos.values())
    known = {f"class {number}": files for number in range(MOST_CLASSES + 2)}
    html = loose_section(known, [], files, images=138, asked=138).html
    assert len(colors_of(html)) == MOST_CLASSES * PER_PAIR + 6
    assert "And 2 more classes." in html
    assert "of no cluster" not in html
    assert "asked about" not in html
    one = loose_section({}, [], files[:1], images=1, asked=1).html
    assert "1 image lies beside the class folders or in unlabelled/." in one
    assert "Nobody labelled it, and it trains or tests nothing: this is what it looks like" in one
    assert "taken for" not in one
