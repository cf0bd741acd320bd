"""How images become squares: as timm does it, by the recipe's settings, whatever the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from tests.helpers.pictures import draw_folder
from trainables.data.data_settings import Data, Fitting
from trainables.data.decode import decode_file
from trainables.data.source_cache import fit_image
from trainables.data.sources import load_source, load_unrelated
from trainables.data.views import build_views
from trainables.errors import ConfigError
from trainables.experiment import Experiment, load_experiment
from trainables.settings import assign, build

SHAPES = [(300, 400), (401, 300), (224, 224), (97, 64), (31, 480), (50, 50), (255, 256)]  # H, W
METHODS = ["bilinear", "bicubic", "lanczos", "nearest"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("size", "fraction"), [(224, 1.0), (224, 0.875), (96, 0.9), (33, 0.95)])
def test_pixels_are_those_of_timms_transform(
    shape: tuple[int, int], method: str, size: int, fraction: float
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    timms = create_transform(
        size, interpolation=method, crop_pct=fraction, mean=(0, 0, 0), std=(1, 1, 1)
    )
    wanted = (timms(Image.fromarray(pixels)) * 255).round().to(torch.uint8).permute(1, 2, 0)
    found = fit_image(pixels, size, Fitting(method, fraction))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, wanted.numpy())


def test_an_image_of_the_right_size_is_cropped_too(tmp_path: Path) -> None:
    pixels = np.full((32, 32, 3), 255, dtype=np.uint8)
    pixels[2:-2, 2:-2] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert decode_file(str(tmp_path / "a.png"), 32).max() == 255
    assert decode_file(str(tmp_path / "a.png"), 32, Fitting(crop_fraction=0.75)).max() < 30


def test_each_fitting_has_decoded_images_of_its_own(tmp_path: Path) -> None:
    folder, cache = draw_folder(tmp_path / "set", classes=2), tmp_path / "cache"
    fittings = [Fitting(), Fitting("bicubic"), Fitting("bicubic", 0.5), Fitting("nearest", 0.5)]
    for _ in range(2):  # decoded, then from the cache
        loaded = [
            load_source(f"folder:{folder}", tmp_path, 12, cache=cache, fitting=fitting)
            for fitting in fittings
        ]
        loose = [
            load_unrelated(f"folder:{folder}", tmp_path, 12, cache=cache, fitting=fitting)
            for fitting in fittings
        ]
        assert len({source.digest for source in loaded}) == len(fittings)
        assert len({source.digest for source in loose}) == len(fittings)


def test_views_and_their_unrelated_images_are_fitted_as_the_recipe_says(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=4, train=12, test=4)
    other = draw_folder(tmp_path / "other", classes=2)
    data = Data(
        source=f"folder:{folder}",
        root=str(tmp_path),
        image_size=12,
        interpolation="nearest",
        crop_fraction=0.5,
        novel_classes=0,
        validation_novel_classes=0,
        validation_per_class=4,
    )
    data = data.model_copy(
        update={
            "stream": data.stream.model_copy(update={"unrelated_source": f"folder:{other}"}),
        }
    )
    views, usual = build_views(data), build_views(data.model_copy(update={"crop_fraction": None}))
    files = sorted(folder.rglob("*.png"))
    fitted = {decode_file(str(path), 12, data.fitting).tobytes() for path in files}
    assert {image.tobytes() for image in views.known_train.images} <= fitted
    strange = {decode_file(str(p), 12, data.fitting).tobytes() for p in other.rglob("*.png")}
    assert {image.tobytes() for image in views.pool.images} & strange
    assert views.known_train.digest != usual.known_train.digest


def test_a_recipe_without_the_settings_is_written_as_before() -> None:
    written = Experiment().model_dump(mode="json")["data"]
    assert not {"interpolation", "crop_fraction"} & set(written)
    chosen = assign(Experiment(), {"data.interpolation": "bicubic", "data.crop_fraction": 0.9})
    written = chosen.model_dump(mode="json")
    assert written["data"]["interpolation"] == "bicubic"
    assert build(Experiment, written) == chosen
    assert chosen.digest() != Experiment().digest()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.interpolation=bicubik", ["data.interpolation", "'bicubic'", "bicubik"]),
        ("data.crop_fraction=0", ["data.crop_fraction", "0.1", "received 0"]),
        ("data.crop_fraction=1.2", ["data.crop_fraction", "1", "received 1.2"]),
    ],
)
def test_a_wrong_fitting_is_one_line(change: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(None, [change])
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []
