"""`orchestrator fit PHOTOS`: interrupted, gone on with, asked again, and the champion answers."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from orchestrator.fitting.fit_record import FitRecord
from orchestrator.fitting.fitted_model import FittedModel
from tests.helpers.commands import in_this_process

SIZES = {0: 30, 1: 14, 2: 8, 3: 1}  # images of each digit
NAMES = {0: "zero", 1: "one", 2: "two", 3: "three"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder with photos as a stranger has them."""
    desk = tmp_path_factory.mktemp("desk")
    images, labels = load_digits(return_X_y=True)

    for digit, size in SIZES.items():
        folder = desk / "my photos" / NAMES[digit]
        folder.mkdir(parents=True)
        for number, pixels in enumerate(images[labels == digit][:size]):
            square = (pixels.reshape(8, 8) * 15.9).astype(np.uint8).repeat(6, 0).repeat(6, 1)
            Image.fromarray(square).save(folder / f"{number:02d}.png")
    zero = desk / "my photos" / "zero"
    (zero / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (zero / "again.png").write_bytes((zero / "05.png").read_bytes())
    (zero / "notes.txt").write_text("mine")
    return desk


def fit(desk: Path, *more: str) -> subprocess.Popen[str]:
    """Start a fit from another folder than the photos'."""
    place = desk / "elsewhere"
    place.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "fit", "../my photos", *more],
        cwd=place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_from_photos_to_an_answer(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = fit(desk)
    assert interrupted.stdout is not None
    for line in interrupted.stdout:  # until features begin
        if line.startswith("backbone"):
            interrupted.send_signal(signal.SIGINT)
            break
    said, wrong = interrupted.communicate(timeout=120)
    assert interrupted.returncode == 130, wrong
    assert said.splitlines()[-1] == "interrupted: the same command goes on where it was"
    assert "Traceback" not in wrong

    process = fit(desk, "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    record = json.loads(out)  # one object, and nothing else
    photos, search, figures = record["photos"], record["search"], record["figures"]
    left_out = sum(map(len, photos["left_out"].values()))
    assert photos["train"] + photos["test"] == photos["images"]
    assert sum(c["train"] + c["test"] for c in photos["classes"]) == photos["images"]
    assert {c["name"] for c in photos["classes"]} == set(NAMES.values())
    assert figures["images"] == photos["test"]
    assert photos["images"] == sum(SIZES.values())
    assert left_out == 3, photos  # broken, copy, notes
    assert search["variants"] == 54
    assert figures["by_class"]["zero"]["mean"] > 0.8
    assert "three" not in figures["by_class"]  # without its one image nothing knows it
    assert "three: known, but without a figure, as no image is left to judge by" in err
    assert {turn["class_name"] for turn in record["rehearsal"]["turns"]} <= set(NAMES.values())
    ratios = [figures["balanced"], figures["natural"], *figures["bands"].values()]
    assert all(0 <= r["low"] <= r["mean"] <= r["high"] <= 1 for r in ratios)
    assert record["promotion"]["version"] == "1"
    assert record["promotion"]["promoted"]

    features = list((desk / "elsewhere" / "runs" / "features").rglob("[0-9a-f]*"))
    again = fit(desk)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert "nothing changed" in out
    assert "my photos version 1 is champion" in out
    assert features == list((desk / "elsewhere" / "runs" / "features").rglob("[0-9a-f]*"))
    assert f"{photos['images']} images" in out
    assert re.search(rf"{photos['train']} train, {photos['test']} test", out)

    page = (desk / "elsewhere" / "runs/models/my photos/report.html").read_text(encoding="utf-8")
    assert "<h2>Confusions</h2>" in page
    assert "data:image/jpeg;base64," in page
    assert "<h2>Suspect labels</h2>" in page
    suspects = sum(record["suspects"].values())  # the only three is none: nothing else knows threes
    assert suspects < 8
    assert ("--labels" in out) == (suspects > 0) == bool(record["suspects_file"])

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    call = in_this_process(capsys, monkeypatch)
    (line,) = [line for line in out.splitlines() if line.startswith("orchestrator predict")]
    words = shlex.split(line.partition("   ")[0])[1:]
    answer = call(*words, cwd=desk / "elsewhere")
    assert answer.returncode == 0, answer.stderr
    assert Path(words[1]).parent.name in answer.stdout

    model = FittedModel(
        FitRecord.model_validate(record | {"storage": str(desk / "elsewhere/runs")})
    )
    told = model.predict([words[1], Image.open(desk / "elsewhere" / words[1])])
    assert {one.class_name for one in told} == {Path(words[1]).parent.name}
    assert set(model.rehearsal["class"]) <= set(model.class_names)
