"""Image files in, answers out, with a registered version; and the command line around it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.registry.predictor import open_version, predict_files, predictions_table
from orchestrator.registry.versions import Registry
from tests.helpers.exported import exported, new_run, views_of
from trainables.errors import ConfigError
from trainables.inference.model import load_model

pytestmark = [
    # MLflow's own use of SQLAlchemy and pandas.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method"),
]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("predictor")
    uri = f"sqlite:///{root}/mlflow.db"
    registry = Registry(uri)
    for seed in (0, 1):
        metrics = {"evaluate/accuracy/balanced": 0.8 + seed / 100}
        registry.register("longtail", exported(seed), new_run(uri, root), metrics, {})
    registry.set_alias("longtail", "champion", "2")
    registry.set_alias("longtail", "previous", "1")
    return root


@pytest.fixture(scope="module")
def registry(storage: Path) -> Registry:
    return Registry(f"sqlite:///{storage}/mlflow.db")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    view = views_of().held_out_known
    paths = []
    for number in range(70):  # more than one batch
        path = folder / f"{number:02d}.png"
        Image.fromarray(view.images[view.indices[number]]).save(path)
        paths.append(path)
    return paths


def test_files_are_answered_as_their_pixels_are(registry: Registry, files: list[Path]) -> None:
    model = open_version(registry, "longtail", "previous")
    answers = predict_files(model, files)
    view = views_of().held_out_known
    found = load_model(exported()).predict(view.images[view.indices[:70]])
    assert [answer.image for answer in answers] == [str(path) for path in files]
    assert [answer.class_name for answer in answers] == found.class_name
    assert [answer.known for answer in answers] == list(found.known)
    assert np.allclose([answer.probability for answer in answers], found.probability, atol=1e-6)
    assert predict_files(model, []) == []


def test_alias_and_number_name_the_same_version(registry: Registry, files: list[Path]) -> None:
    by_alias, by_number = (
        predict_files(open_version(registry, "longtail", name), files[:5])
        for name in ("champion", "2")
    )
    assert by_alias == by_number
    assert by_alias != predict_files(open_version(registry, "longtail", "1"), files[:5])


def test_unknown_names_are_one_line(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="no version 9; its versions: 1, 2"):
        open_version(registry, "longtail", "9")
    with pytest.raises(ConfigError, match="no alias 'x'; its aliases: champion, previous"):
        open_version(registry, "longtail", "x")


def test_bad_files_are_one_line_with_their_name(registry: Registry, tmp_path: Path) -> None:
    model = open_version(registry, "longtail", "champion")
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"text\.png: the file is not an image"):
        predict_files(model, [tmp_path / "text.png"])
    with pytest.raises(ConfigError, match=r"none\.png: No such file"):
        predict_files(model, [tmp_path / "none.png"])


def test_every_format_and_size_that_training_takes(registry: Registry, tmp_path: Path) -> None:
    model = open_version(registry, "longtail", "champion")
    view = views_of().held_out_known
    image = Image.fromarray(view.images[view.indices[0]])
    names = ["a.png", "a.tif", "a.ppm", *(["a.avif"] if features.check("avif") else [])]
    options = {"a.avif": {"quality": 100, "subsampling": "4:4:4"}}
    for name in names:
        image.save(tmp_path / name, **options.get(name, {}))
    side = 7000 // image.width
    image.resize((image.width * side, image.height * side), 0).save(tmp_path / "49_megapixels.bmp")
    Image.new("RGB", (1, 46_729)).save(tmp_path / "line.png")
    first, *others, _ = predict_files(
        model, [tmp_path / name for name in (*names, "49_megapixels.bmp", "line.png")]
    )
    assert {answer.class_name for answer in others} == {first.class_name}
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    shutil.copy(tmp_path / "a.png", raw)
    (answer,) = predict_files(model, [Path(os.fsdecode(raw))])
    assert answer.image == f"{tmp_path}/caf\ufffd.png"
    assert answer.probability == pytest.approx(first.probability, abs=1e-5)
    assert answer.model_dump_json()


def test_table_marks_the_unknown(registry: Registry, files: list[Path]) -> None:
    answers = predict_files(open_version(registry, "longtail", "champion"), files[:1])
    unknown = [answer.model_copy(update={"known": False}) for answer in answers]
    assert next(iter(predictions_table(unknown).columns[-1].cells)).plain == "unknown"


def run(storage: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*words, "--storage", str(storage)])
    return done.exit_code, done.output


def test_command_prints_a_line_per_image(storage: Path, files: list[Path]) -> None:
    code, text = run(storage, "predict", *map(str, files[:3]), "--json")
    assert code == 0, text
    rows = [json.loads(line) for line in text.splitlines()]
    assert {row["pretrained_on"] for row in rows} == {"nothing"}
    assert [row["image"] for row in rows] == [str(path) for path in files[:3]]
    code, text = run(storage, "predict", str(files[0]))
    assert code == 0
    assert files[0].name in text


@pytest.mark.slow
def test_rollback_is_one_command_and_undoes_itself(
    storage: Path, registry: Registry, files: list[Path]
) -> None:
    _, before = run(storage, "predict", str(files[0]), "--json")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "promote", "rollback", "--storage", str(storage)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "version 1 is champion again" in done.stdout
    assert registry.aliases("longtail") == {"champion": "1", "previous": "2"}
    assert run(storage, "predict", str(files[0]), "--json")[1] != before
    code, text = run(storage, "promote", "rollback")
    assert code == 0
    assert "version 2 is champion again" in text
    assert run(storage, "predict", str(files[0]), "--json")[1] == before
