"""What cannot work is refused before Ray starts, and burns no name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.options import SweepOptions, parse_objective
from orchestrator.records import SweepRecord
from orchestrator.search.recipe_paths import content_of_paths
from orchestrator.search.study_manifest import StudyManifest
from orchestrator.trials.sweep_start import folder_of, open_record
from tests.helpers.pictures import draw, draw_folder
from trainables.errors import ConfigError
from trainables.experiment import Experiment, load_experiment
from trainables.settings import assign


def options(storage: str | Path, **more: object) -> SweepOptions:
    return SweepOptions(**{"storage": str(storage), "name": "one", **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("storage", ["bad://x", "/dev/null", "/proc/none/here", "nope://a/b"])
def test_a_storage_that_cannot_be_used_is_refused_in_one_line(storage: str) -> None:
    with pytest.raises(ConfigError, match="storage: cannot") as error:
        open_record(options(storage), Experiment())
    assert storage in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder", encoding="utf-8")
    with pytest.raises(ConfigError, match="--storage: cannot write to"):
        open_record(options(file / "runs"), Experiment())


def test_an_unknown_objective_burns_no_name(tmp_path: Path) -> None:
    wrong = options(tmp_path, objectives=(parse_objective("evaluate/nothing:max"),))
    with pytest.raises(ConfigError, match="no metric is called 'evaluate/nothing'"):
        open_record(wrong, Experiment())
    assert not (tmp_path / "sweeps" / "one" / "sweep.json").exists()
    right = options(tmp_path, objectives=(parse_objective("evaluate/accuracy/few:max"),))
    assert open_record(right, Experiment()).objectives == list(right.objectives)


# --- a sweep that goes on ---------------------------------------------------------------------

BASE = assign(Experiment(), {"score.method": "msp", "discover.num_new_clusters": 3})


def stored(monday: SweepOptions, tree: dict[str, Any]) -> None:
    """Write the record of a sweep of that recipe."""
    record = SweepRecord(
        name=monday.name,
        space=monday.space,
        started="2026-01-02T03:04:05+00:00",
        experiment=tree,
        objectives=[],
        environment={},
    )
    record.save(folder_of(monday, monday.name))


@pytest.fixture
def monday(tmp_path: Path) -> SweepOptions:
    return SweepOptions(name="monday", space="full", storage=str(tmp_path))


def in_former_names(tree: dict[str, Any]) -> dict[str, Any]:
    tree["score"]["method"] = {"least_confident": tree["score"]["method"].pop("msp")}
    tree["discover"]["num_clusters"] = tree["discover"].pop("num_new_clusters")
    return tree


def test_a_sweep_from_before_names_changed_goes_on(monday: SweepOptions) -> None:
    stored(monday, in_former_names(BASE.model_dump(mode="json")))
    record = open_record(monday, BASE)
    assert record.started == "2026-01-02T03:04:05+00:00"
    assert record.experiment == BASE.model_dump(mode="json")


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"discover": {"num_clusters": 4}}, {"setting_of_before": 1}],
    ids=["other value", "other value by its former name", "a setting that is gone"],
)
def test_a_sweep_of_another_recipe_is_refused(monday: SweepOptions, change: dict[str, Any]) -> None:
    stored(monday, {**BASE.model_dump(mode="json"), **change})
    with pytest.raises(ConfigError, match="'monday' exists with another recipe or space") as error:
        open_record(monday, BASE)
    assert "\n" not in str(error.value)


def test_a_sweep_of_another_space_is_refused(monday: SweepOptions) -> None:
    stored(monday, BASE.model_dump(mode="json"))
    with pytest.raises(ConfigError, match=r"another recipe or space \(full\)"):
        open_record(monday.model_copy(update={"space": "update"}), BASE)


# --- what paths lead to -----------------------------------------------------------------------


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    (tmp_path / "here/sub").mkdir(parents=True)
    return draw_folder(tmp_path / "here/flowers", classes=6)


def recipe_of(source: object, *sets: str) -> Experiment:
    return load_experiment(None, [f"data.source=folder:{source}", "data.image_size=8", *sets])


def begun(monday: SweepOptions, base: Experiment) -> None:
    """Write the record of a sweep that began with a recipe and what its paths led to."""
    record = open_record(monday, base)
    record.content = content_of_paths(base)
    record.save(folder_of(monday, monday.name))


def test_a_sweep_goes_on_from_another_folder(
    monday: SweepOptions, flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(flowers.parent)
    begun(monday, recipe_of("flowers"))
    monkeypatch.chdir("sub")
    record = open_record(monday, recipe_of("../flowers"))
    assert record.experiment["data"]["source"] == "folder:../flowers"
    assert open_record(monday, recipe_of(flowers)).started == record.started
    with pytest.raises(ConfigError, match="exists with another recipe"):
        open_record(monday, recipe_of("../flowers", "seed=1"))


def test_a_sweep_does_not_go_on_with_other_images_elsewhere(
    monday: SweepOptions, flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(flowers.parent)
    begun(monday, recipe_of("flowers"))
    draw(flowers / "train/class0/new.png", 0, noise=50)
    with pytest.raises(ConfigError, match="exists with another recipe"):
        open_record(monday, recipe_of("./flowers"))
    (flowers / "train/class0/new.png").unlink()
    assert open_record(monday, recipe_of("./flowers")).name == "monday"


def test_a_sweep_does_not_go_on_with_other_weights(monday: SweepOptions, tmp_path: Path) -> None:
    path = tmp_path / "trunk.safetensors"
    save_file({"w": torch.ones(1)}, path)
    method = f"pretrain.method={{pretrained: {{checkpoint: {path}}}}}"
    begun(monday, load_experiment(None, [method]))
    save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match=r"another content of pretrain.*checkpoint=.*trunk"):
        open_record(monday, load_experiment(None, [method]))


def test_a_study_goes_on_from_another_folder(
    monday: SweepOptions, flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def freeze(base: Experiment) -> StudyManifest:
        (tmp_path / "study").mkdir(exist_ok=True)
        return StudyManifest.freeze(
            tmp_path / "study", name="s", space="full", base=base, objectives=[], seed=0
        )

    monkeypatch.chdir(flowers.parent / "sub")
    first = freeze(recipe_of(flowers))
    assert freeze(recipe_of("../flowers")) == first
    old = first.model_copy(update={"experiment": recipe_of("../flowers").digest()})
    old.save(tmp_path / "study")  # as an earlier version wrote it
    assert freeze(recipe_of("../flowers")) == old
    draw(flowers / "train/class0/new.png", 0, noise=50)
    first.save(tmp_path / "study")
    with pytest.raises(ConfigError, match="was started with experiment"):
        freeze(recipe_of(flowers))
