"""Image files in, answers out, with a registered version; and the command line around it."""

from __future__ import annotations

import csv
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

from orchestrator.answering.stream import predict_files
from orchestrator.cli.main import app, main
from orchestrator.registry.predictor import open_version
from orchestrator.registry.versions import Registry
from tests.helpers import ROOT
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
def two_models(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two")
    shutil.copy(storage / "mlflow.db", root / "mlflow.db")
    uri = f"sqlite:///{root}/mlflow.db"
    registry = Registry(uri)
    registry.register("photos", exported(0), new_run(uri, root), {}, {})
    registry.set_alias("photos", "champion", "1")
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
    assert text.split()[:2] == [str(files[0]), rows[0]["class_name"]]
    code, text = run(storage, "predict", str(files[0].parent), "--csv")
    assert code == 0
    table = list(csv.DictReader(text.splitlines()))
    assert [row["image"] for row in table] == [str(path) for path in files]
    assert float(table[1]["probability"]) == pytest.approx(rows[1]["probability"], abs=1e-5)


def test_a_broken_file_is_one_line_and_the_rest_goes_on(
    storage: Path, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_text("no image", encoding="utf-8")
    words = [str(files[0]), str(tmp_path / "broken.png"), str(tmp_path / "no.png"), str(files[1])]
    done = CliRunner().invoke(app, ["predict", *words, "--json", "--storage", str(storage)])
    assert done.exit_code == 1
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == [words[0], words[3]]
    assert done.stderr.splitlines() == [
        f"error: {words[1]}: the file is not an image of a known format",
        f"error: {words[2]}: no such file",
    ]


MODELS = ("photos", "longtail")
NO_TORCH = """
import sys
from orchestrator.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    loaded = type(sys.modules.get("torch", "")).__name__ == "module"
    print(left.code, "numpy.linalg" in sys.modules, loaded)
"""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["no.png"], "no.png: no such file"),
        (["no/*.png"], "no/*.png: no file has such a name"),
        (["-"], "no names on standard input"),
        (["image.png", "--json", "--csv"], "--json, --csv: give one of them"),
        (["image.png", "--model", "../x"], "--model: must begin"),
        (["image.png"], "--model: there are several; name one of longtail, photos"),
    ],
    ids=" ".join,
)
def test_words_are_checked_before_torch_is_loaded(
    two_models: Path, words: list[str], text: str
) -> None:
    (two_models / "image.png").touch()
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, "predict", *words, "--storage", str(two_models)],
        cwd=two_models, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stdout.split() == ["2", "False", "False"], done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert text in done.stderr


def test_each_of_several_models_answers_by_its_name(two_models: Path, files: list[Path]) -> None:
    asked = ("predict", str(files[0]), "--json", "--model")
    (first, photos), (second, longtail) = (run(two_models, *asked, m) for m in MODELS)
    assert (first, second) == (0, 0)
    wanted = [
        open_version(Registry(f"sqlite:///{two_models}/mlflow.db"), m, "champion") for m in MODELS
    ]
    for text, model in zip((photos, longtail), wanted, strict=True):
        (answer,) = predict_files(model, files[:1])
        assert json.loads(text)["confidence"] == pytest.approx(answer.confidence, rel=1e-4)
    assert photos != longtail


@pytest.mark.parametrize("words", [["list"], ["version", "2"], ["rollback"]], ids=" ".join)
def test_of_several_models_promote_wants_a_name(
    two_models: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["promote", *words, "--storage", str(two_models)])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: --model: there are several; name one of longtail, photos"


def test_the_only_model_needs_no_name_to_be_listed(
    storage: Path, two_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {}
    for root, more in ((storage, []), (two_models, ["--model", "photos"])):
        with pytest.raises(SystemExit) as left:
            main(["promote", "list", "--storage", str(root), *more])
        assert not left.value.code
        shown[root] = capsys.readouterr().out
    assert "longtail" in shown[storage]
    assert "previous" in shown[storage]
    assert "photos" in shown[two_models]
    assert "longtail" not in shown[two_models]


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
