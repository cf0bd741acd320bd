"""What a sweep can be told, and the commands that messages name."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.options import (
    SweepOptions,
    check_name,
    command,
    local_folder,
    name_of_folder,
    name_of_source,
    remedies,
)
from orchestrator.records import GateRecord, PromotionRecord
from orchestrator.store.filesystem import check_storage
from trainables.errors import ConfigError


@pytest.mark.parametrize("name", ["monday", "a b", "Käfer-2.1", "x@y=z,(1)", "_1", "ß" * 100])
def test_names_of_folders_and_models(name: str) -> None:
    assert check_name("--name", name) == name


BAD_NAMES = [
    *("../../x", "/tmp/x", "..", ".", "a/b", "it's", "", " a", "-a", ".a", "a:b", "a\\b", "a\nb"),
    *("x" * 300, "ß" * 101, "a\0", "a[/b]", "a?b", "a%b", "a#b", '"', "\udcff"),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_their_place_are_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match="--model: must begin with a letter") as caught:
        check_name("--model", name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["name", "model"])
@pytest.mark.parametrize("name", [name for name in BAD_NAMES if name])
def test_a_sweep_takes_no_such_name(option: str, name: str) -> None:
    with pytest.raises(ValidationError, match=f"--{option}: must begin"):
        SweepOptions(**{option: name})


@pytest.mark.parametrize(
    "given",
    [
        {"cpus_per_trial": 1e-320},
        {"cpus_per_trial": float("inf")},
        {"cpus_per_trial": float("nan")},
        {"cpus_per_trial": 0.0},
        {"gpus_per_trial": 1e-9},
        {"gpus_per_trial": 1.5},
        {"gpus_per_trial": float("inf")},
        {"trials": 10**30},
        {"num_seeds": 10**9},
        {"concurrency": 0},
    ],
)
def test_numbers_that_no_sweep_can_have_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError) as caught:
        SweepOptions(**given)
    assert len(caught.value.errors()) == 1


@pytest.mark.parametrize("given", [{"cpus_per_trial": 0.5}, {"gpus_per_trial": 2}])
def test_shares_and_whole_numbers_are_taken(given: dict[str, float]) -> None:
    assert SweepOptions(**given)


def test_a_folder_is_the_same_as_its_uri(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    assert local_folder(folder.as_uri()) == local_folder(str(folder)) == folder
    assert local_folder("~/runs") == Path.home() / "runs"


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("", "must be a folder or a URI"),
        ("a\0b", "must be a folder or a URI"),
        ("/dev/null", "cannot write to '/dev/null'"),
        ("/dev/null/runs", "cannot write to '/dev/null/runs'"),
        ("x" * 5000, "must be a folder or a URI"),
        ("/".join(["x" * 200] * 30), "File name too long"),
        ("what?", "must have no '?' and no sequence like '%20'"),
        ("a%20b", "must have no '?' and no sequence like '%20'"),
        ("no://such", "storage: cannot open 'no://such'"),
        ("s3://", "names no bucket"),
        ("file://", "must be a folder or a URI"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line(storage: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as caught:
        check_storage(storage)
    assert "\n" not in str(caught.value)


def test_closing_commands_carry_what_they_need() -> None:
    told = command("promote list", storage="my runs", model="it 1")
    assert told == "orchestrator promote list --storage 'my runs' --model 'it 1'"


def refused(*gates: str, version: str | None = "3", promoted: bool = False) -> PromotionRecord:
    refusals = [GateRecord(name=name, passed=False, reason="") for name in gates]
    return PromotionRecord(model="m", version=version, promoted=promoted, gates=refusals)


@pytest.mark.parametrize(
    ("record", "first"),
    [
        (refused("few", "latency"), "version 3 --storage s --model m --gate few.allowed_regr"),
        (refused("comparison"), "orchestrator promote version 3 --storage s --model m --force"),
        (refused("comparison", "many"), "--gate many.allowed_regression=NUMBER"),
        (refused("few", "provenance"), "choose a recipe without"),
        (refused("oracle", version=None), "choose a recipe without"),
    ],
)
def test_a_refusal_names_a_remedy(record: PromotionRecord, first: str) -> None:
    assert first in remedies(record, "s")[0]


def test_what_was_promoted_needs_no_remedy() -> None:
    assert remedies(refused(promoted=True), "runs") == []
    assert remedies(refused("few", promoted=True), "runs") == []


@pytest.mark.parametrize(
    ("folder", "name"), [("Käfer 2", "Käfer 2"), ("a:b*c", "a-b-c"), ("x" * 250, "x" * 200)]
)
def test_odd_names_become_names_that_a_registry_takes(folder: str, name: str) -> None:
    assert name_of_folder(Path("/nowhere") / folder) == name


def test_a_name_without_letters_asks_for_one() -> None:
    with pytest.raises(ConfigError, match="give --model NAME"):
        name_of_folder(Path("/nowhere/---"))


def test_a_model_is_named_after_the_images_it_is_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pets.v2").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pets.v2")
    monkeypatch.chdir(tmp_path / "pets.v2")
    assert {name_of_source(f"folder:{p}") for p in (".", "../link", "../pets.v2/")} == {"pets.v2"}
    assert name_of_source("table:lists/birds.2.csv") == "birds.2"
    assert name_of_source("table: a:b.parquet") == "a-b"
    assert {name_of_source(name) for name in ("digits", "cifar100")} == {"longtail"}
    with pytest.raises(ConfigError, match=r"^---.csv: its name can't name .*; give --model NAME"):
        name_of_source("table:---.csv")
