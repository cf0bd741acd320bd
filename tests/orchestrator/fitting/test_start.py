"""The beginning of a fit: its key, and one fit of a model at a time."""

import contextlib
import fcntl
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.fitting import start
from orchestrator.fitting.fit_options import FitOptions
from orchestrator.fitting.fit_record import Deeper
from orchestrator.fitting.photo_folder import look_at_folder
from orchestrator.fitting.progress_lines import Lines
from orchestrator.fitting.start import (
    _example,
    _is_asked_for,
    _trains,
    fit_key,
    fit_photos,
    show_dry_run,
)
from orchestrator.records import Interval, PromotionRecord
from tests.helpers import versions
from tests.helpers.photos import photo_folder
from tests.helpers.registered import name_champion
from tests.helpers.versions import right_below, version
from tests.orchestrator.fitting.test_screen import RECORD
from trainables.errors import ConfigError
from trainables.inference.outcomes import OUTCOMES_FILE, save_outcomes


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, level in (("cat", 40), ("dog", 160)):
        folder = tmp_path / "pets" / name
        folder.mkdir(parents=True)
        for number in range(6):
            image = Image.new("L", (16, 16), level)
            image.putpixel((number, 0), 255)
            image.save(folder / f"{number}.png")
    return tmp_path / "pets"


def test_the_key_is_of_images_and_of_what_was_asked_for(photos: Path, tmp_path: Path) -> None:
    options = FitOptions(photos=photos, storage=str(tmp_path / "runs"))
    found = look_at_folder(photos, tmp_path / "model")
    key = fit_key(options, found)
    moved = photos.rename(tmp_path / "elsewhere")
    again = look_at_folder(moved, tmp_path / "model")
    same = options.model_copy(update={"photos": moved, "model": "pets"})
    assert fit_key(same.model_copy(update={"model": ""}), again) != key  # another name
    assert again.digest == found.digest
    assert fit_key(options.model_copy(update={"metric": "accuracy"}), found) != key
    Image.new("L", (16, 16), 99).save(moved / "cat" / "new.png")
    grown = look_at_folder(moved, tmp_path / "model")
    assert grown.digest != found.digest
    assert fit_key(options, grown) != key
    shutil.move(moved / "cat" / "new.png", moved / "dog" / "new.png")
    other_class = look_at_folder(moved, tmp_path / "model")
    assert other_class.digest not in (grown.digest, found.digest)
    (tmp_path / "pairs.csv").write_text("path,group\ndog/new.png,a\ndog/0.png,a\n")
    grouped = look_at_folder(moved, tmp_path / "model", groups=tmp_path / "pairs.csv")
    assert grouped.digest != other_class.digest  # in one shot now


@pytest.mark.parametrize("name", ["backbone", "expect"])
def test_the_key_is_of_what_files_hold(photos: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "weights.pth"
    file.write_text("cat: 1\ndog: 1\n")
    asked = f"resnet18={file}" if name == "backbone" else str(file)
    options = FitOptions.model_validate({"photos": photos, name: asked})
    found = look_at_folder(photos, tmp_path / "model")
    key = fit_key(options, found)
    assert fit_key(options, found) == key
    assert fit_key(options.model_copy(update={"deeper": True}), found) == key
    file.write_text("cat: 2\ndog: 1\n")
    assert fit_key(options, found) != key


def test_a_fine_tuning_that_did_not_serve_is_not_done_again() -> None:
    none = Interval(mean=0, low=0, high=0, values=[0])
    told = {"epochs": 1, "kept_out": 9, "gain": none, "frozen": "ridge", "new": []}
    plain, deeper = FitOptions(photos=Path()), FitOptions(photos=Path(), deeper=True)
    frozen = RECORD.model_copy(update={"key": "k"})
    lost = frozen.model_copy(update={"deeper": Deeper(**told, serves=False)})
    won = RECORD.model_copy(update={"key": "k-deeper", "deeper": Deeper(**told, serves=True)})
    assert [_is_asked_for(record, "k", plain) for record in (frozen, lost, won)] == [
        True, True, False,
    ]  # fmt: skip
    assert [_is_asked_for(record, "k", deeper) for record in (frozen, lost, won)] == [
        False, True, True,
    ]  # fmt: skip
    assert not _is_asked_for(won, "other", deeper)


@pytest.mark.parametrize("away", [True, False])
def test_a_network_is_trained_on_demand_or_for_want_of_weights(
    monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    monkeypatch.setattr(start, "usual_is_away", lambda: away)
    usual, named, none = (FitOptions(photos=Path(), backbone=b) for b in ("", "resnet18", "none"))
    stands = RECORD.model_copy(update={"key": "k-deeper"})
    assert _trains(usual, "k", None) is away
    assert not _trains(usual, "k", stands)  # its weights are gone since: nothing to train
    assert _trains(usual, "other", stands) is away
    assert not _trains(named, "k", None)
    assert _trains(none, "k", stands)


def test_numbers_of_the_look_sum_up(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "copy.png").write_bytes((photos / "cat" / "0.png").read_bytes())
    found = look_at_folder(photos, tmp_path / "model").photos
    assert found.images == 12
    assert found.train + found.val + found.test == found.images
    assert sum(count.images for count in found.classes) == found.images
    assert sum(count.test for count in found.classes) == found.test
    assert sum(map(len, found.left_out.values())) == 1


def test_one_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    Image.new("L", (16, 16)).save(tmp_path / "pets" / "cat" / "1.png")
    with pytest.raises(ConfigError, match="two classes or more apart; found cat alone"):
        look_at_folder(tmp_path / "pets", tmp_path / "model")


def test_a_folder_around_the_class_folders_is_told(photos: Path, tmp_path: Path) -> None:
    """As published sets are unpacked: a folder with one folder, in which the classes are."""
    around = tmp_path / "published"
    around.mkdir()
    photos.rename(around / "Dataset")
    with pytest.raises(ConfigError) as refused:
        look_at_folder(around, tmp_path / "model")
    assert str(refused.value) == (
        f"{around}: a model tells two classes or more apart; found Dataset alone; did you mean "
        f"{around / 'Dataset'}, which has 2 folders?"
    )


def test_a_class_of_which_no_image_trains_is_refused(photos: Path, tmp_path: Path) -> None:
    own = tmp_path / "parted"
    for part in ("train", "test"):
        shutil.copytree(photos, own / part)
    for number, file in enumerate((own / "test").rglob("*.png")):
        Image.effect_noise((16, 16), 99).resize((17 + number, 16)).save(file)
    lion = own / "test" / "lion"
    lion.mkdir()
    for number in range(3):
        Image.effect_noise((16, 16), 99).save(lion / f"{number}.png")
    with pytest.raises(ConfigError) as error:
        look_at_folder(own, tmp_path / "model")
    assert str(error.value) == (
        f"{own}: no image of the class 'lion' trains (3 test); add images of 'lion' that train, "
        "or take the class away"
    )
    shutil.copytree(lion, own / "train" / "lion")
    for file in (own / "train" / "lion").iterdir():
        Image.effect_noise((16, 16), 99).save(file)
    assert look_at_folder(own, tmp_path / "model").photos.train == 15


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        look_at_folder(tmp_path / "nowhere", tmp_path / "model")


def test_a_file_that_is_no_table_is_refused_in_the_words_of_the_command(
    photos: Path, tmp_path: Path
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "pets"), "zip", photos))
    for file in (archive, photos / "cat" / "0.png"):
        with pytest.raises(ConfigError) as error:
            look_at_folder(file, tmp_path / "model")
        assert str(error.value).startswith(f"{file} is a file; give a folder with a folder per")
        assert "folder:" not in str(error.value)


def test_one_fit_of_a_model_at_a_time(photos: Path, tmp_path: Path) -> None:
    options = FitOptions(photos=photos, storage=str(tmp_path / "runs"))
    folder = tmp_path / "runs" / "models" / "pets"
    folder.mkdir(parents=True)
    with open(folder / "fit.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another fit of the model 'pets' runs"):
            fit_photos(options, Lines(io.StringIO()))


def test_an_image_of_a_table_is_shown_wherever_it_lies(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "lists" / "pets.csv"
    table.parent.mkdir()
    rows = [f"{file},{file.parent.name}" for file in sorted(photos.rglob("*.png"))]
    table.write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    found = look_at_folder(table, tmp_path / "model")
    assert found.photos.images == 12
    assert _example(found, table) == photos / "cat" / "0.png"
    again = look_at_folder(photos, tmp_path / "model")
    assert _example(again, Path("pets")) == Path("pets/cat/0.png")
    tested = [p._replace(part="test") if p.file.stem == "4" else p for p in again.images.photos]
    again = again._replace(images=again.images._replace(photos=tested))
    assert _example(again, Path("pets")) == Path("pets/cat/4.png")  # one that trains flatters


@pytest.mark.parametrize(("promoted", "state"), [(True, "answers"), (False, "was refused")])
def test_unchanged_photos_are_told_from_another_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promoted: bool, state: str
) -> None:
    """The record was written where the storage was called otherwise; MLflow's database is asked."""
    storage = tmp_path / "runs"
    options = FitOptions(photos=photos, storage=str(storage))
    folder = storage / "models" / "pets"
    folder.mkdir(parents=True)
    verdict = PromotionRecord(model="pets", version="2", promoted=promoted, gates=[])
    key = fit_key(options, look_at_folder(photos, folder))
    RECORD.model_copy(
        update={
            "key": key,
            "storage": "..",
            "report": "../report.html",
            "started": "noon",
            "promotion": verdict,
        }
    ).save(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    name_champion(storage, "pets", folder, version=2)
    monkeypatch.chdir(photos)
    out = io.StringIO()
    found = fit_photos(options, Lines(out))
    assert f"nothing changed since noon: version 2 {state}" in out.getvalue()
    assert (found.storage, found.report) == (str(storage), str(folder / "report.html"))
    assert f"orchestrator promote list --storage {storage} --model pets" in out.getvalue()


def test_the_parts_that_a_ledger_lost_come_back_before_the_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them test images would train, and it would be another fit."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    photos = photo_folder(tmp_path / "pets", {"cat": 6, "dog": 6})
    options = FitOptions(photos=photos, storage=str(tmp_path / "runs"))
    folder, files = tmp_path / "runs" / "models" / "pets", tmp_path / "version"
    look_at_folder(photos, folder)
    ledger = folder / "splits.jsonl"
    ledger.write_text(ledger.read_text().replace('"train"', '"test"', 2))
    found = look_at_folder(photos, folder)
    assert found.photos.test == 2
    verdict = PromotionRecord(model="pets", version="1", promoted=True, gates=[])
    told = {"key": fit_key(options, found), "started": "noon", "promotion": verdict}
    RECORD.model_copy(update=told).save(folder)
    files.mkdir()
    ledger.replace(files / ledger.name)
    name_champion(tmp_path / "runs", "pets", files)
    out = io.StringIO()
    with contextlib.suppress(ConfigError):  # no backbone is asked for here
        show_dry_run(options, Lines(out))
    assert "10 train, 2 test" in out.getvalue()  # as the version has them
    assert not ledger.exists()  # a dry run writes nothing
    out = io.StringIO()
    fit_photos(options, Lines(out))
    assert f"12 images put back into {ledger} as version 1 has them" in out.getvalue()
    assert "nothing changed since noon: version 1 answers" in out.getvalue()


@pytest.mark.parametrize("begin", [fit_photos, show_dry_run])
def test_photos_of_other_classes_are_refused_before_their_features(
    begin: Callable[[FitOptions, Lines], object],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    files = tmp_path / "version"
    files.mkdir()
    save_outcomes(version(versions.photos(), right_below(0.9)), files / OUTCOMES_FILE)
    name_champion(tmp_path / "runs", "pets", files)
    options = FitOptions(photos=photos, storage=str(tmp_path / "runs"))
    with pytest.raises(ConfigError, match=r"version 1, knows 'caracal', .* show 'cat', 'dog'"):
        begin(options, Lines(io.StringIO()))
    assert not (tmp_path / "runs" / "features").exists()
