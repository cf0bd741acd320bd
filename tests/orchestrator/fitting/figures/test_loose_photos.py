"""Images of no class: what a fit says of them is what its model answers, and none trains."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.fitting import job as fit_job
from orchestrator.fitting.figures.loose_photos import look_at_loose, loose_line
from orchestrator.fitting.fit_options import FitOptions
from orchestrator.fitting.fit_record import FitRecord, Loose, load_fit
from orchestrator.fitting.fitted_model import FittedModel
from orchestrator.fitting.progress_lines import Lines
from orchestrator.fitting.start import fit_photos
from orchestrator.options import folder_of_model
from tests.helpers.small_fit import few_variants, write_photos, write_weights
from tests.orchestrator.fitting.test_screen import RECORD


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
@pytest.mark.filterwarnings("ignore:Operation with range is deprecated")
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")
@pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method")
def test_they_are_shown_as_what_they_look_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_job, "list_variants", few_variants)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    photos = write_photos(tmp_path / "photos", {"zero": 40, "one": 26, "two": 8})
    write_photos(photos / "unlabelled", {"zero": 6, "one": 3}, first=100)
    beside = sorted((photos / "unlabelled").glob("*/*.png"))
    for number, file in enumerate(beside):  # of no class: flat
        file.rename(photos / "unlabelled" / f"{number}.png")
    for name in ("zero", "one"):
        (photos / "unlabelled" / name).rmdir()
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(noise).save(photos / "noise.png")
    asked = FitOptions(
        photos=photos,
        backbone=str(write_weights(tmp_path / "weights")),
        storage=str(tmp_path / "runs"),
    )

    def fit() -> tuple[FitRecord, str]:
        out = io.StringIO()
        return fit_photos(asked, Lines(out)), out.getvalue()

    record, shown = fit()
    assert record.photos.images == 74
    assert {count.name for count in record.photos.classes} == {"zero", "one", "two"}
    files = [*sorted((photos / "unlabelled").iterdir()), photos / "noise.png"]
    answers = FittedModel(record).predict(files)
    loose = record.loose
    assert loose is not None
    assert (loose.images, loose.asked, loose.unreadable) == (10, 10, 0)
    assert loose.known == Counter(a.class_name for a in answers if a.known)
    assert loose.unknown == sum(not a.known for a in answers)
    assert sum(loose.known.values()) + loose.unknown == 10
    assert f"no class   {loose_line(loose)}" in shown
    kept = load_fit(folder_of_model(asked.storage, "photos"))
    assert kept is not None
    assert kept.loose == loose

    (photos / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    again, shown = fit()
    assert "nothing changed" in shown  # no class has changed
    assert again.loose is not None
    assert (again.loose.unreadable, again.loose.images) in ((1, 10), (0, 9))
    for file in files:
        file.unlink()
    assert fit()[0].loose is None


def test_unchanged_images_are_not_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"no image")
    nowhere = tmp_path / "no model"

    def progress(done: int, total: int) -> None:
        raise AssertionError

    assert look_at_loose(RECORD, [], nowhere, progress).loose is None
    with pytest.raises(Exception, match="no model"):
        look_at_loose(RECORD, [file], nowhere, progress)


def test_the_line_names_the_largest_classes() -> None:
    known = {"tabby": 1200, "lynx": 5, "ocelot": 1, "serval": 1}
    found = Loose(key="", images=2600, asked=1300, known=known, unknown=92, unreadable=1)
    assert loose_line(found) == (
        "of 1,300 of 2,600 images 1,207 look like known classes (1,200 tabby, 5 lynx, 1 ocelot "
        "...), 92 are called unknown, 1 unreadable; none trains"
    )
