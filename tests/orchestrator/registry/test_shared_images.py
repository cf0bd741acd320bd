"""What is asked of the champion first: its copy of the ledger, and whether classes are shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from orchestrator.options import LEDGER, folder_of_model
from orchestrator.registry.shared_images import check_shared_class
from orchestrator.registry.version_lookup import keep_parts, restore_parts
from tests.helpers.registered import name_champion
from tests.helpers.versions import NAMES, photos, right_below, version
from trainables.data.shots.ledger import Ledger
from trainables.errors import ConfigError
from trainables.inference.outcome_tables import Picture
from trainables.inference.outcomes import OUTCOMES_FILE, save_outcomes

DECIDED = [("b1", "p1", "g1", "train"), ("b2", "p2", "g2", "test"), ("b3", "p3", "g3", "test")]


class Desk(NamedTuple):
    """A storage, the ledger of the model 'cats' in it, and the files of its champion, version 3."""

    storage: str
    ledger: Path
    files: Path


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    files = tmp_path / "version/artifacts/model"
    files.mkdir(parents=True)
    name_champion(tmp_path / "runs", "cats", tmp_path / "version", version=3)
    storage = str(tmp_path / "runs")
    return Desk(storage, folder_of_model(storage, "cats") / LEDGER, files)


def decided(path: Path) -> dict[str, tuple[str, str]]:
    return {digest: (e.group, e.part) for digest, e in Ledger(path).by_bytes.items()}


def test_a_version_keeps_the_ledger_of_its_model(desk: Desk) -> None:
    keep_parts(desk.storage, "cats", desk.files)
    assert list(desk.files.iterdir()) == []  # nothing was decided yet
    Ledger(desk.ledger).append(DECIDED)
    keep_parts(desk.storage, "cats", desk.files)
    assert (desk.files / LEDGER).read_bytes() == desk.ledger.read_bytes()


def test_a_ledger_that_is_gone_comes_back_from_the_champion(desk: Desk) -> None:
    Ledger(desk.ledger).append(DECIDED)
    before = desk.ledger.read_bytes()
    keep_parts(desk.storage, "cats", desk.files)
    desk.ledger.unlink()
    assert restore_parts(desk.storage, "cats") == (
        f"3 images put back into {desk.ledger} as version 3 has them"
    )
    assert desk.ledger.read_bytes() == before
    assert restore_parts(desk.storage, "cats") == ""
    assert restore_parts(desk.storage, "dogs") == ""  # no such model


def test_a_ledger_that_was_cut_short_is_completed_and_keeps_what_it_says(desk: Desk) -> None:
    Ledger(desk.files / LEDGER).append(DECIDED)
    Ledger(desk.ledger).append([("b1", "p1", "other", "test"), ("b9", "p9", "g9", "train")])
    assert restore_parts(desk.storage, "cats").startswith("2 images put back")
    assert decided(desk.ledger) == {
        "b1": ("other", "test"),  # as it stands there
        "b9": ("g9", "train"),
        "b2": ("g2", "test"),
        "b3": ("g3", "test"),
    }


def test_a_line_that_was_torn_comes_back_whole(desk: Desk) -> None:
    Ledger(desk.ledger).append(DECIDED)
    keep_parts(desk.storage, "cats", desk.files)
    desk.ledger.write_bytes(desk.ledger.read_bytes()[:-9])
    assert restore_parts(desk.storage, "cats").startswith("1 image put back into ")
    assert decided(desk.ledger) == decided(desk.files / LEDGER)
    assert len(desk.ledger.read_text().splitlines()) == 3


def test_a_version_without_a_copy_gives_nothing_back(desk: Desk) -> None:
    assert restore_parts(desk.storage, "cats") == ""
    assert not desk.ledger.exists()


def pictures(names: tuple[str, ...], start: int = 0) -> list[Picture]:
    return [Picture(p.digest, p.part, p.label, p.group) for p in photos(names, start=start)]


def test_images_of_other_classes_are_refused(desk: Desk) -> None:
    save_outcomes(version(photos(), right_below(0.9)), desk.files / OUTCOMES_FILE)
    strangers = ("daisy", "rose")
    with pytest.raises(ConfigError) as refused:
        check_shared_class(desk.storage, "cats", pictures(strangers))
    assert str(refused.value) == (
        "--model: 'cats' is the name of a model of other classes: its champion, version 3, knows "
        "'caracal', 'lynx', 'ocelot', 'serval', 'tabby', these images show 'daisy', 'rose'; the "
        "two could not be compared, so give a name of its own with --model NAME"
    )
    check_shared_class(desk.storage, "flowers", pictures(strangers))  # a name of its own
    (desk.files / OUTCOMES_FILE).unlink()
    check_shared_class(desk.storage, "cats", pictures(strangers))  # nobody can tell


@pytest.mark.parametrize(
    ("start", "name"),
    [(900, str), (0, str.upper), (0, str)],
    ids=["other images", "all renamed", "the same"],
)
def test_images_of_a_class_that_is_known_are_not_refused(
    desk: Desk, start: int, name: Callable[[str], str]
) -> None:
    save_outcomes(version(photos(), right_below(0.9)), desk.files / OUTCOMES_FILE)
    named = [p._replace(class_name=name(p.class_name)) for p in pictures(NAMES[:1], start)]
    check_shared_class(desk.storage, "cats", [*named, *pictures(("daisy",))])
    check_shared_class(desk.storage, "cats", [])
