"""The model of a fit in Python: any image that people have in hand, and errors of one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import orchestrator
from orchestrator.answering.stream import predict_files
from orchestrator.fitting.fit_record import FitRecord
from orchestrator.fitting.fitted_model import FittedModel
from orchestrator.records import PromotionRecord
from tests.helpers.exported import exported, views_of
from trainables.errors import ConfigError


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FittedModel:
    """Return the model of a record; the rest of the record is of no meaning here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/models/digits").mkdir(parents=True)
    (tmp_path / "runs/models/digits/served").symlink_to(exported())
    return FittedModel(FitRecord.model_construct(model="digits", storage="runs", promotion=None))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    view = views_of().held_out_known
    return np.asarray(view.images[view.indices[0]])


def test_a_path_is_answered_as_by_the_command(
    model: FittedModel, pixels: np.ndarray, tmp_path: Path
) -> None:
    """Whatever its mode: 16 bits, a palette with a hole, CMYK, or turned by its metadata."""
    picture = Image.fromarray(pixels)
    gray = pixels[..., 0]
    Image.fromarray(gray.astype(np.uint16) * 256 + 7).save(tmp_path / "16.png")
    picture.quantize(16).save(tmp_path / "palette.png", transparency=0)
    picture.convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.merge("LA", [Image.fromarray(gray), Image.fromarray(255 - gray)]).save(
        tmp_path / "la.png"
    )
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.rotate(90).save(tmp_path / "turned.png", exif=turned)
    files = sorted(path for path in tmp_path.iterdir() if path.is_file())
    assert len(files) == 5
    said = predict_files(model.model, files)
    for given in (files, [str(path) for path in files], [Image.open(path) for path in files]):
        told = model.predict(given)
        assert [(a.class_name, a.probability, a.known) for a in told] == [
            (p.class_name, pytest.approx(p.probability, abs=1e-6), p.known) for p in said
        ]
    plain, by_name = model.predict(picture), dict(zip([f.name for f in files], said, strict=True))
    assert by_name["turned.png"].probability == pytest.approx(plain.probability, abs=1e-6)
    assert by_name["16.png"].probability == pytest.approx(  # the upper eight bits
        model.predict(Image.fromarray(gray)).probability, abs=1e-6
    )


def test_arrays_and_none_at_all(model: FittedModel, pixels: np.ndarray) -> None:
    one = model.predict(pixels)
    assert one == model.predict([pixels])[0] == model.predict((Image.fromarray(pixels),))[0]
    assert model.predict([]) == []


@pytest.mark.parametrize(
    ("image", "received"),
    [
        (np.zeros((4, 4, 3)), r"an array float64 \[4, 4, 3\]"),
        (np.zeros((4, 4), np.uint8), r"an array uint8 \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"an array uint8 \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"an array uint8 \[0, 4, 3\]"),
        (7, "'int'"),
        (iter([]), "'list_iterator'"),
    ],
)
def test_what_is_no_image_is_one_line(model: FittedModel, image: object, received: str) -> None:
    with pytest.raises(ConfigError, match=rf"or an array uint8 \[H, W, 3\]; received {received}"):
        model.predict(image)


def test_files_that_are_no_images_are_one_line(model: FittedModel, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(whole)
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:5000])
    for name, reason in (
        ("text.png", "the file is not an image of a known format"),
        ("gone.png", "No such file or directory"),
        ("runs", "Is a directory"),
        ("half.png", "image file is truncated"),
    ):
        with pytest.raises(ConfigError, match=f"{name}: {reason}"):
            model.predict([whole, tmp_path / name])
    cut_off = "a PIL image can't be read, image file is truncated"
    with Image.open(tmp_path / "half.png") as half, pytest.raises(ConfigError, match=cut_off):
        model.predict(half)


def test_it_is_found_from_another_folder_too(
    model: FittedModel, pixels: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    os.chdir(tmp_path / "notes")  # the fixture's `chdir` leads back
    assert model.predict(pixels).class_name in model.class_names


def test_it_says_whether_it_was_refused() -> None:
    record = FitRecord.model_construct(model="digits", storage="runs", promotion=None)
    assert repr(FittedModel(record)) == "FittedModel('digits', version None)"
    for promoted, shown in ((True, "version 3"), (False, "version 3, refused")):
        verdict = {"model": "digits", "version": "3", "promoted": promoted, "gates": []}
        record.promotion = PromotionRecord.model_validate(verdict)
        assert repr(FittedModel(record)) == f"FittedModel('digits', {shown})"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"metrik": "accuracy"}, "fit: unknown key 'metrik'; .*did you mean 'metric'"),
        ({"metric": "auc"}, "fit.metric: .*'balanced'.*received 'auc'"),
        ({"false_alarm": 0.7}, "fit.false_alarm: .*received 0.7"),
        ({"model": "a/b"}, "--model: "),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, object], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        orchestrator.fit(tmp_path, quiet=True, **options)


def test_files_and_folders_may_be_paths(tmp_path: Path) -> None:
    places = ("storage", "expect", "groups", "labels", "backbone")
    with pytest.raises(ConfigError, match="nowhere: there is no such folder"):
        orchestrator.fit(
            tmp_path / "nowhere", quiet=True, **{name: tmp_path / name for name in places}
        )
    assert (tmp_path / "storage").is_dir()


@pytest.mark.parametrize("photos", [None, 7, ["a", "b"]])
def test_what_is_no_folder_is_one_line(photos: object) -> None:
    with pytest.raises(ConfigError, match=r"photos: must be the path of a folder; received '\w+'"):
        orchestrator.fit(photos, quiet=True)  # type: ignore[arg-type]


def test_no_folder_is_not_the_working_folder() -> None:
    with pytest.raises(ConfigError, match="photos: must not be empty"):
        orchestrator.fit("", quiet=True)
