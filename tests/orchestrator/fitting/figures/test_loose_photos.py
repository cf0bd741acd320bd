"""Images of no class: what a fit says of them is what its model answers, and none trains."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.fitting import job as fit_job
from orchestrator.fitting.figures import loose_photos
from orchestrator.fitting.figures.loose_clusters import keep_known
from orchestrator.fitting.figures.loose_photos import Asked, grouped, look_at_loose, loose_line
from orchestrator.fitting.fit_options import FitOptions
from orchestrator.fitting.fit_record import FitRecord, Loose, LooseCluster, load_fit
from orchestrator.fitting.fitted_model import FittedModel
from orchestrator.fitting.progress_lines import Lines
from orchestrator.fitting.start import fit_photos
from orchestrator.options import folder_of_model
from tests.helpers.small_fit import few_variants, write_photos, write_weights
from tests.orchestrator.fitting.test_screen import RECORD
from trainables.inference.answers import Answer

CLASSES = {"zero": 40, "one": 26, "two": 8}


class Desk:
    """A folder of digits, weights, and a storage."""

    def __init__(self, root: Path) -> None:
        self.photos = write_photos(root / "photos", CLASSES)
        self.asked = FitOptions(
            photos=self.photos,
            backbone=str(write_weights(root / "weights")),
            storage=str(root / "runs"),
        )
        self.home = folder_of_model(self.asked.storage, "photos")

    def fit(self) -> tuple[FitRecord, str]:
        out = io.StringIO()
        return fit_photos(self.asked, Lines(out)), out.getvalue()

    def page(self) -> str:
        return (self.home / "report.html").read_text(encoding="utf-8")


def write_stripes(folder: Path, number: int) -> None:
    """Write images that look alike, and like no digit: colored stripes with a little noise."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for place in range(number):
        pixels = np.zeros((32, 32, 3))
        pixels[:, ::4] = (255, 40, 0)
        pixels[:, 1::4] = (0, 255, 90)
        noisy = pixels + rng.normal(0, 12, pixels.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"stripes {place}.png")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
@pytest.mark.filterwarnings("ignore:Operation with range is deprecated")
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")
@pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method")
def test_they_are_shown_as_what_they_look_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with 40 of them, with 5, with one that is broken, and with none."""
    monkeypatch.setattr(fit_job, "list_variants", few_variants)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    desk = Desk(tmp_path)
    beside = desk.photos / "unlabelled"
    write_photos(beside, {"zero": 16, "one": 11}, first=100)
    for number, file in enumerate(sorted(beside.glob("*/*.png"))):  # of no class: flat
        file.rename(beside / f"{number}.png")
    for name in ("zero", "one"):
        (beside / name).rmdir()
    write_stripes(beside, 12)
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(noise).save(desk.photos / "noise.png")

    record, shown = desk.fit()
    assert record.photos.images == 74
    assert {count.name for count in record.photos.classes} == set(CLASSES)
    files = [*sorted(beside.iterdir()), desk.photos / "noise.png"]
    assert len(files) == 40
    answers = FittedModel(record).predict(files)
    loose = record.loose
    assert loose is not None
    assert (loose.images, loose.asked, loose.unreadable) == (40, 40, 0)
    assert loose.known == Counter(a.class_name for a in answers if a.known)
    assert loose.unknown == sum(not a.known for a in answers)
    place = dict(zip(files, answers, strict=True))
    for name, group in loose.known_files.items():
        found = [place[desk.photos / file] for file in group]
        assert {(a.class_name, a.known) for a in found} == {(name, True)}
        sure = [a.probability for a in found]
        assert sure == sorted(sure, reverse=True)
    unknown = [*loose.alone, *(file for cluster in loose.clusters for file in cluster.files)]
    assert {desk.photos / file for file in unknown} == {f for f in files if not place[f].known}
    assert len(unknown) == loose.unknown
    stripes = {f"unlabelled/stripes {number}.png" for number in range(12)}
    assert stripes <= set(unknown)
    assert any(set(cluster.files) == stripes for cluster in loose.clusters)
    assert f"no class   {loose_line(loose)}" in shown
    kept = load_fit(desk.home)
    assert kept is not None
    assert kept.loose == loose
    told = section(desk.page())
    assert "40 images lie beside the class folders" in told
    assert "<b>12 look alike among themselves</b>" in told
    assert told.count('title="unlabelled/stripes') == 12

    page = (desk.home / "report.html").stat().st_mtime_ns
    again, shown = desk.fit()
    assert again.loose == loose
    assert f"no class   {loose_line(loose)}" in shown
    assert (desk.home / "report.html").stat().st_mtime_ns == page  # nothing was asked again

    for file in files[5:]:
        file.unlink()
    again, shown = desk.fit()
    assert "nothing changed" in shown  # no class has changed
    assert again.loose is not None
    assert (again.loose.images, again.loose.asked) == (5, 5)
    assert sum(again.loose.known.values()) + again.loose.unknown == 5
    told = section(desk.page())
    assert "5 images lie beside" in told
    assert told.count("<img") == 5

    for file in files[1:5]:
        file.unlink()
    files[0].write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    again, shown = desk.fit()
    assert again.loose is not None
    assert (again.loose.images, again.loose.unreadable) == (1, 1)
    assert "of 1 image 0 look like known classes, 0 are called unknown, 1 unreadable (" in shown
    assert f"Unreadable: unlabelled/{files[0].name}." in section(desk.page())
    files[0].unlink()
    assert desk.fit()[0].loose is None
    assert "Images of no class" not in desk.page()
    assert "<h2>Classes</h2>" in desk.page()


def section(page: str) -> str:
    """Return the section of a page about images of no class."""
    found = re.search(r"<h2>Images of no class</h2>(.*?)</section>", page, re.DOTALL)
    assert found is not None
    return found.group(1)


def answer(name: str, probability: float, *, known: bool) -> Answer:
    return Answer(0, name, probability, None, None, 0.0, known, None, ())


def test_images_are_grouped_by_what_they_look_like(tmp_path: Path) -> None:
    """Features whose clusters are known: 9 and 6 images, and 3 that are alone."""
    rng = np.random.default_rng(0)
    direction = torch.eye(24)

    def around(number: int, size: int) -> torch.Tensor:
        noise = torch.from_numpy(rng.normal(0, 0.3, (size, 24)))
        return (5 * direction[number] + noise).float()

    labels = torch.arange(4).repeat_interleave(20)
    keep_known(torch.cat([around(label, 20) for label in range(4)]), labels, tmp_path)
    sizes = {"9": 9, "6": 6, "odd": 3, "lynx": 2, "tabby": 4}
    files = [Path(f"{name} {number}") for name, size in sizes.items() for number in range(size)]
    near = ["lynx"] * 7 + ["tabby"] * 2 + ["ocelot"] * 3 + ["lynx"] * 3 + ["lynx"] * 3
    answers = [answer(name, 0.5, known=False) for name in near]
    answers += [answer("lynx", p, known=True) for p in (0.7, 0.9)]
    answers += [answer("tabby", p, known=True) for p in (0.6, 0.8, 0.7, 0.9)]
    odd = [-5 * direction[number][None] for number in (15, 16, 17)]
    features = torch.cat([around(9, 9), around(10, 6), *odd, around(0, 6)])
    seen = Asked(dict(zip(files, answers, strict=True)), features, [Path("broken")])
    found = grouped(RECORD, seen, tmp_path)
    assert {name: [str(f) for f in group] for name, group in found.known.items()} == {
        "tabby": ["tabby 3", "tabby 1", "tabby 2", "tabby 0"],
        "lynx": ["lynx 1", "lynx 0"],
    }
    assert list(found.known) == ["tabby", "lynx"]  # the one with more images first
    # as many lynxes as ocelots are near the second: the first by name
    assert [(name, {f.name[0] for f in group}, len(group)) for name, group in found.clusters] == [
        ("lynx", {"9"}, 9),
        ("lynx", {"6"}, 6),
    ]
    assert [str(file) for file in found.alone] == ["odd 0", "odd 1", "odd 2"]
    assert found.unreadable == [Path("broken")]
    without = grouped(RECORD, seen, tmp_path / "a model of before")
    assert (without.clusters, len(without.alone)) == ([], 18)
    narrow = seen._replace(features=features[:, :8])  # of a fit that was cut short
    assert grouped(RECORD, narrow, tmp_path).clusters == []


def test_unchanged_images_are_not_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"no image")
    nowhere = tmp_path / "no model"

    def progress(done: int, total: int) -> None:
        raise AssertionError

    def look(files: list[Path], record: FitRecord = RECORD) -> FitRecord:
        return look_at_loose(record, files, tmp_path, nowhere, progress)

    assert look([]).loose is None
    with pytest.raises(Exception, match="no model"):
        look([file])
    odd = [tmp_path / "leads nowhere", tmp_path / "caf\udce9.png"]  # a link; a name in Latin-1
    with pytest.raises(Exception, match="no model"):
        look(odd)


def test_what_changed_is_asked_again_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many images as before, one of them another; or another version of the model."""
    asked: list[int] = []

    def ask(files: list[Path], exported: Path, progress: object) -> Asked:
        asked.append(len(files))
        return Asked({}, torch.zeros(0, 1), list(files))

    monkeypatch.setattr(loose_photos, "_ask", ask)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        file.write_bytes(b"image")

    def look(record: FitRecord) -> FitRecord:
        return look_at_loose(record, files, tmp_path, tmp_path, lambda done, total: None)

    first = look(RECORD)
    assert look(first) == first
    assert asked == [3]
    files[1].write_bytes(b"another image")
    second = look(first)
    assert asked == [3, 3]
    assert look(second) == second
    assert second.promotion is not None
    newer = second.promotion.model_copy(update={"version": "2"})
    look(second.model_copy(update={"promotion": newer}))
    assert asked == [3, 3, 3]


def test_of_many_images_some_are_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third of ten, spread over them, where four are the most; of four all."""
    monkeypatch.setattr(loose_photos, "MOST", 4)
    seen: list[str] = []

    def ask(files: list[Path], exported: Path, progress: object) -> Asked:
        seen.extend(file.name for file in files)
        return Asked({}, torch.zeros(0, 1), list(files))

    monkeypatch.setattr(loose_photos, "_ask", ask)
    files = [tmp_path / f"{number}.png" for number in range(10)]
    found = look_at_loose(RECORD, files[::-1], tmp_path, tmp_path, lambda done, total: None).loose
    assert seen == ["0.png", "3.png", "6.png", "9.png"]
    assert found is not None
    assert (found.images, found.asked) == (10, 4)
    seen.clear()
    look_at_loose(RECORD, files[:4], tmp_path, tmp_path, lambda done, total: None)
    assert seen == ["0.png", "1.png", "2.png", "3.png"]


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            Loose(
                key="",
                images=2600,
                asked=1300,
                known={"tabby": 1200, "lynx": 5, "ocelot": 1, "serval": 1},
                unknown=92,
                unreadable=1,
                unreadable_files=["a.png"],
            ),
            "of 1,300 of 2,600 images 1,207 look like known classes (1,200 tabby, 5 lynx, 1 ocelot "
            "...), 92 are called unknown, 1 unreadable (a.png); none trains",
        ),
        (
            Loose(key="", images=1, asked=1, known={"tabby": 1}, unknown=0),
            "of 1 image 1 looks like a known class (1 tabby), 0 are called unknown; none trains",
        ),
        (
            Loose(key="", images=1, asked=1, known={}, unknown=1),
            "of 1 image 0 look like known classes, 1 is called unknown; none trains",
        ),
    ],
)
def test_the_line_names_the_largest_classes(found: Loose, line: str) -> None:
    assert loose_line(found) == line


def test_the_line_tells_the_clusters() -> None:
    clusters = [LooseCluster(nearest="lynx", files=["a"] * size) for size in (14, 9, 5)]
    found = Loose(key="", images=50, asked=50, known={"tabby": 17}, unknown=33, clusters=clusters)
    start = "of 50 images 17 look like known classes (17 tabby), 33 are called unknown: "
    assert loose_line(found) == (
        f"{start}3 clusters of 14, 9 and 5 look alike among themselves; none trains"
    )
    found = found.model_copy(update={"clusters": clusters[:1]})
    assert loose_line(found) == f"{start}14 of them look alike; none trains"
