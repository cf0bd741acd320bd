"""What `fit` can be told: a dry run, a time, expected classes, own parts; by values, on digits."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.fitting import job as fit_job
from orchestrator.fitting.fit_options import FitOptions
from orchestrator.fitting.fit_record import OWN_VALIDATION, FitRecord, load_fit
from orchestrator.fitting.job import FitJob
from orchestrator.fitting.progress_lines import Lines
from orchestrator.fitting.start import fit_photos, show_dry_run
from orchestrator.registry.versions import Registry
from orchestrator.tracking.mlflow_client import tracking_uri
from tests.helpers.small_fit import FEW, few_variants, write_photos, write_weights

pytestmark = [
    pytest.mark.slow,
    # MLflow's own use of SQLAlchemy and pandas, and what it says of the packaged model
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method"),
]

SIZES = {"zero": 40, "one": 26, "two": 8}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("small") / "weights")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fit_job, "list_variants", few_variants)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def options(photos: Path, weights: Path, **more: Any) -> FitOptions:
    return FitOptions(photos=photos, backbone=str(weights), **more)


def fit(asked: FitOptions) -> tuple[FitRecord, list[str]]:
    """Fit, and return the record and the lines."""
    out = io.StringIO()
    record = fit_photos(asked, Lines(out))
    return record, out.getvalue().splitlines()


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return time and size of every file."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(f): (f.stat().st_mtime_ns, f.stat().st_size) for f in files}


def test_a_dry_run_tells_what_the_fit_then_does(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = few_variants()
    monkeypatch.setattr("orchestrator.fitting.trying.variants.list_variants", lambda most=0: few)
    photos = write_photos(tmp_path / "photos", SIZES)
    (photos / "one" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    asked = options(photos, weights)

    def dry() -> list[str]:
        before, out = state(tmp_path), io.StringIO()
        show_dry_run(asked, Lines(out))
        assert state(tmp_path) == before  # nothing is written
        return out.getvalue().splitlines()

    planned = dry()
    assert not (tmp_path / "runs").exists()
    record, done = fit(asked)
    look = 1 + next(n for n, line in enumerate(planned) if line.startswith("backbone"))
    assert planned[:look] == done[:look]
    assert any(f"features of {record.photos.images} images" in line for line in planned)
    assert any(f"{record.search.variants} variants of head and balance" in line for line in planned)
    assert any(f"a version of the model '{record.model}'" in line for line in planned)
    assert any(line.startswith("disk       about 1 MB below ") for line in planned)

    again = dry()
    assert any(
        f"features of 0 images ({record.photos.images} are stored)" in line for line in again
    )
    assert Registry(tracking_uri(None, tmp_path / "runs")).versions("photos") == ["1"]
    write_photos(photos, {"zero": 3}, first=50)
    assert any(
        f"features of 3 images ({record.photos.images} are stored)" in line for line in dry()
    )


def test_a_search_without_time_left_gives_a_champion_and_says_so(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_photos(tmp_path / "photos", SIZES)
    monkeypatch.setattr(FitJob, "_in_time", lambda self: False)
    record, lines = fit(options(photos, weights, seconds=10.0))
    first = [method for method in few_variants() if method.name == "ridge"]
    assert record.search.variants == len(first)
    assert record.search.left_out == FEW - len(first)
    assert record.search.served.startswith("ridge")
    assert f"--time left out {FEW - len(first)} variants" in " ".join(lines)
    assert record.promotion is not None
    assert record.promotion.promoted


@pytest.mark.parametrize(("spent", "goes_on"), [(9.0, True), (11.0, False)])
def test_time_counts_from_the_beginning(
    spent: float, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = FitOptions(photos=Path(), seconds=10.0)
    clock = [100.0]
    monkeypatch.setattr("orchestrator.fitting.job.time.monotonic", lambda: clock[0])
    found = FitJob(asked, Lines(io.StringIO()), Path())
    clock[0] += spent
    assert found._in_time() is goes_on
    assert FitJob(FitOptions(photos=Path()), Lines(io.StringIO()), Path())._in_time()


def test_expected_classes_weigh_the_figure_of_ones_own_photos(
    weights: Path, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", SIZES)
    (tmp_path / "expected.yaml").write_text("zero: 2\none: 1\ntwo: 1\n")
    shares = {
        "natural": {name: size / sum(SIZES.values()) for name, size in SIZES.items()},
        "balanced": dict.fromkeys(SIZES, 1 / 3),
        "expected.yaml": {"zero": 0.5, "one": 0.25, "two": 0.25},
    }
    keys = set()
    for expect, share in shares.items():
        record, lines = fit(options(photos, weights, expect=expect))
        rates = {name: rate.mean for name, rate in record.figures.by_class.items()}
        wanted = sum(share[name] * rate for name, rate in rates.items())
        assert record.figures.natural.mean == pytest.approx(wanted), expect
        words = "like yours" if expect == "natural" else "as they are expected"
        said = f"of 100 photos {words} {100 * wanted:.0f} are named rightly"
        assert any(said in line for line in lines), lines
        keys.add(record.key)
    assert len(keys) == 3


def test_own_parts_choose_calibrate_and_test(weights: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_photos(photos / "train", {"zero": 30, "one": 25, "two": 12})
    write_photos(photos / "val", {"zero": 30, "one": 25, "two": 25}, first=60)
    write_photos(photos / "test", {"zero": 40, "one": 4}, first=120)  # imbalanced, without 'two'
    for file in (photos / "val").rglob("*.png"):  # another camera: all is upside down and negative
        with Image.open(file) as image:
            turned = Image.fromarray(255 - np.asarray(image)[::-1])
        turned.save(file)
    record, lines = fit(options(photos, weights))
    assert (record.photos.train, record.photos.val, record.photos.test) == (67, 80, 44)
    assert record.search.judged_by == OWN_VALIDATION
    assert record.figures.images == 44
    assert record.figures.out_of_fold_classes == ["two"]
    assert record.figures.validation is not None
    assert record.figures.validation_gap is not None
    assert record.figures.validation_gap.high < 0
    text = "\n".join(lines)
    assert "67 train, 80 validate, 44 test" in text
    assert "on val/, the choice repeated inside" in text
    assert "val/ has other conditions than train/" in text
    assert record.suspects  # of answers out of fold, though these calibrate nothing
    assert all(0 <= r.low <= r.mean <= r.high <= 1 for r in record.figures.by_class.values())


def test_a_grown_folder_computes_what_is_new_and_says_what_is_compared(
    weights: Path, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", SIZES)
    before, lines = fit(options(photos, weights))
    assert f"features   {before.photos.images} images in" in "\n".join(lines)
    write_photos(photos, {"zero": 20, "one": 20}, first=60)
    write_photos(photos, {"three": 40})
    after, lines = fit(options(photos, weights))
    more = after.photos.images - before.photos.images
    assert more == 80
    text = "\n".join(lines)
    assert f"features   {after.photos.images} images, {more} of them new, in" in text
    assert after.promotion is not None
    assert after.promotion.version == "2"
    # compared on what is test for both: the test images of before, which have not moved
    (said,) = [line for line in lines if "are compared with version 1" in line]
    assert said.startswith(f"{before.photos.test} test images of ")
    new_tests = after.photos.test - before.photos.test
    assert new_tests > 0
    assert "were no test images of version 1" in said
    assert "this version alone knows 'three'" in said


def test_unchanged_photos_are_answered_without_mlflow_and_timm(
    weights: Path, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", SIZES)
    record, _ = fit(options(photos, weights))
    words = ["fit", str(photos), "--backbone", str(weights), "--json"]
    code = (
        "import sys\nfrom orchestrator.cli import main\n"
        f"try:\n    main.main({words!r})\nexcept SystemExit as left:\n    assert not left.code\n"
        "found = {name: sys.modules.get(name) for name in ('mlflow', 'timm')}\n"
        # a module that is loaded only when it is used is empty until then
        "loaded = {n for n, m in found.items() if m is not None and '__version__' in vars(m)}\n"
        "print('loaded', sorted(loaded), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert FitRecord.model_validate_json(done.stdout) == load_fit(tmp_path / "runs/models/photos")
    assert json.loads(done.stdout)["key"] == record.key
    assert "nothing changed since" in done.stderr
    assert "photos version 1 is champion" in done.stderr
    assert done.stderr.splitlines()[-1] == "loaded []"
