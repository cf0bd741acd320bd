"""A folder of one's own images, from another working folder: plan, refusals, a run."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.photos import scene

CLASSES = {"ant": 40, "bee": 34, "cat": 28, "dog": 22, "elk": 18, "fox": 12}


def picture(kind: int, number: int) -> Image.Image:
    """Return a photo-like image: a scene of the image's own, no copy, in the class's colors."""
    own = Image.fromarray(scene(100 * kind + number)).resize((64, 48))
    color = np.array([40 + 35 * kind, 220 - 35 * kind, 90 + 130 * (kind % 2)])
    return Image.fromarray((0.4 * np.asarray(own) + 0.6 * color).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNG and JPEG files, a folder per class, as a camera and a file manager leave them."""
    root = tmp_path_factory.mktemp("own") / "photos"
    for kind, (name, count) in enumerate(CLASSES.items()):
        (root / "Train" / name).mkdir(parents=True)
        (root / "Test" / name).mkdir(parents=True)
        for number in range(count + 6):
            part = "Train" if number < count else "Test"
            suffix = ("png", "jpg")[number % 2]
            picture(kind, number).save(root / part / name / f"{number:03}.{suffix}")
        (root / "Train" / name / "Thumbs.db").write_bytes(b"x")
    return root


def orchestrator(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip


RECIPE = """
name: own
data:
  source: {source}
  image_size: 16
  novel_classes: 2
  validation_novel_classes: 1
  validation_per_class: 4
  stream: {{known: 20, novel: 20, unrelated: 4}}
classify:
  training: {{epochs: 20, batch_size: 16, lr: 0.05, precision: float32, layout: channels_last}}
score:
  threshold: {{known_recall: {{keep: 0.8}}}}
update:
  training: {{epochs: 2, batch_size: 32, lr: 0.05}}
"""


@pytest.fixture
def elsewhere(tmp_path: Path, photos: Path) -> Path:
    """Return another working folder, with a recipe that names the photos by a relative path."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work/photos").symlink_to(photos)
    (tmp_path / "work/own.yaml").write_text(RECIPE.format(source="folder:photos"))
    return tmp_path / "work"


def test_plan_shows_classes_and_who_is_new(photos: Path, elsewhere: Path) -> None:
    done = orchestrator("plan", "--no-show", "--set", f"data.source=folder:{photos}",
                        "--set", "data.validation_per_class=4", cwd=elsewhere)  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    for name, count in CLASSES.items():
        assert str(count) in rows[name]
        assert "6" in rows[name]
    assert "6 classes (3 known, 1 new in validation, 2 new in test)" in done.stdout
    assert "imbalance factor" in done.stdout
    assert "files of 64x48 pixels" in done.stdout
    assert "hidden and system files left out (6): Thumbs.db (6)" in done.stdout


def test_plan_of_a_folder_with_faults_shows_all_of_them(photos: Path, elsewhere: Path) -> None:
    bad = elsewhere / "bad"
    for path in photos.rglob("*.*"):
        target = bad / path.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    (bad / "Train/ant/empty.jpg").write_bytes(b"")
    (bad / "Train/bee/gone.jpg").symlink_to("/nowhere/gone.jpg")
    (bad / "Train/void").mkdir()
    done = orchestrator("plan", "-e", "own.yaml", "-s", "data.source=folder:bad", cwd=elsewhere)
    assert done.returncode == 2
    for words in ("empty.jpg", "gone.jpg", "Train/void is empty"):
        assert words in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.endswith("(and 2 more)")
    assert "Traceback" not in done.stderr
    skipped = orchestrator(
        "plan", "-e", "own.yaml", "-s", "data.source=folder:bad",
        "-s", "data.skip_unreadable=true", cwd=elsewhere,
    )  # fmt: skip
    assert skipped.returncode == 0, skipped.stderr


def test_refused_sweep_starts_nothing_and_keeps_its_name(elsewhere: Path) -> None:
    source = elsewhere / "cut"
    for kind, name in enumerate(CLASSES):
        (source / name).mkdir(parents=True)
        for number in range(12):
            picture(kind, number).save(source / name / f"{number}.png")
    whole = (source / "cat/7.png").read_bytes()
    (source / "cat/7.png").write_bytes(whole[: len(whole) // 2])  # its head is whole
    words = ("-e", "own.yaml", "-s", "data.source=folder:cut", "--name", "mine", "--storage", "s")
    done = orchestrator("sweep", *words, cwd=elsewhere)
    assert done.returncode == 2
    assert "cat/7.png can't be read as an image" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "Started a local Ray" not in done.stderr + done.stdout
    assert not list((elsewhere / "s").rglob("sweep.json"))


def test_recipe_runs_on_own_photos(elsewhere: Path) -> None:
    done = orchestrator("run", "-e", "own.yaml", "--storage", "s", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert metrics["evaluate/accuracy"] > 0.4
    (recipe,) = (elsewhere / "s/recipes").glob("*/experiment.yaml")
    assert "natural" in recipe.read_text()
    assert "data.profile=natural" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_by_a_relative_path_goes_on_from_another_folder(elsewhere: Path) -> None:
    words = ("--name", "mine", "--finalists", "1", "--num-seeds", "1", "--concurrency", "1")
    quick = ("-s", "classify.training.epochs=2", "-s", "update.training.epochs=1")
    first = orchestrator("sweep", "-e", "own.yaml", *quick, *words, "--trials", "1",
                         "--storage", "s", cwd=elsewhere)  # fmt: skip
    assert first.returncode == 0, first.stderr
    (elsewhere / "deeper").mkdir()
    again = orchestrator("sweep", "-e", "../own.yaml", "-s", "data.source=folder:../photos", *quick,
                         *words, "--trials", "2", "--storage", "../s",
                         cwd=elsewhere / "deeper")  # fmt: skip
    assert again.returncode == 0, again.stderr
    folder = elsewhere / "s/sweeps/mine"
    record = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert [trial["state"] for trial in record["trials"]] == ["COMPLETE", "COMPLETE"]
    assert record["experiment"]["data"]["source"] == "folder:../photos"  # the user's words
    assert record["data"]["source"] == "table:photos.csv"  # with the parts of the ledger
    assert record["served_source"].endswith("/service/photos.csv")
    assert len((elsewhere / "s/models/photos/splits.jsonl").read_text().splitlines()) == 190
    assert set(record["content"]) == {"data.source"}
    assert "photos.csv" in (folder / "report.html").read_text(encoding="utf-8")
    with sqlite3.connect(elsewhere / "s/mlflow.db") as database:
        sources = database.execute("select distinct value from params where key = 'data.source'")
        assert sources.fetchall() == [("table:photos.csv",)]
    check_that_the_version_knows_every_class(elsewhere, record)


def check_that_the_version_knows_every_class(elsewhere: Path, record: dict[str, Any]) -> None:
    """Ask it about all test images: its figures in MLflow are what these answers give."""
    service = record["service"]
    assert (service["classes"], service["test_images"]) == (6, 36)
    assert service["images"] + service["calibrating"] == sum(CLASSES.values())
    # a trained trunk: 7 images of each of the 3 classes of 25 or more make the 19 of a level of 5 %
    assert service["calibrating"] == 21
    card = json.loads((elsewhere / "s/sweeps/mine" / service["folder"] / "model.json").read_text())
    assert card["class_names"] == list(CLASSES)
    assert record["promotion"]["model"] == "photos"
    version = record["promotion"]["version"]  # whatever the gates say of two epochs' work
    words = ("photos/Test", "--json", "--storage", "s", "--model-version", version)
    asked = orchestrator("predict", *words, cwd=elsewhere)
    assert asked.returncode == 0, asked.stderr
    answers = [json.loads(line) for line in asked.stdout.splitlines()]
    right = [Path(found["image"]).parent.name == found["class_name"] for found in answers]
    with sqlite3.connect(elsewhere / "s/mlflow.db") as database:
        rows = database.execute(
            "select m.key, m.value from metrics m join tags t on t.run_uuid = m.run_uuid "
            "join model_versions v on v.run_id = m.run_uuid "
            "where t.key = 'orchestrator.role' and t.value = 'service' and v.version = ?",
            (int(version),),
        )
        metrics = dict(rows.fetchall())
    assert len(right) == 36
    assert metrics["test/accuracy"] == pytest.approx(sum(right) / 36)
    strange = sum(not found["known"] for found in answers)
    assert metrics["test/novelty/false_alarm"] == pytest.approx(strange / 36)
    assert "rehearsal/novelty/auroc" in metrics
    assert "test/novelty/auroc" not in metrics
