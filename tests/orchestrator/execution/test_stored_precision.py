"""`precision: auto` is decided before keys are computed, once per storage and kind of machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from orchestrator.execution.store_executor import StoreExecutor, cached_views, view_digests
from orchestrator.execution.stored_precision import for_gpu_groups, race_key
from orchestrator.execution.train_group import GroupRunner
from orchestrator.records import StageUse
from orchestrator.store.result_cache import result_cache_of
from orchestrator.store.stage_store import StageStore
from trainables import __main__ as command
from trainables import pipeline
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.models import precision
from trainables.models.backbone import build_trunk, to_artifact
from trainables.models.precision import Race
from trainables.pipeline import plan, with_precision
from trainables.settings import assign
from trainables.threads import computed_with

SMALL = [
    "data.max_per_class=12",
    "classify.training.epochs=1",
    "classify.training.batch_size=32",
    "classify.training.precision=auto",
    "classify.training.layout=auto",
]
BASE = load_experiment("experiments/digits.yaml", SMALL)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def race_is_won_by(winner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every training be long enough for a race, in which ``winner`` is twice as fast."""
    monkeypatch.setattr(pipeline, "WORTH_PROBING", 1)
    monkeypatch.setattr(
        precision,
        "_time_step",
        lambda module, images, dtype: 1.0 if dtype == DTYPES[winner] else 2.0,
    )
    pipeline._measured.cache_clear()  # as in a new process


def train(storage: Path, recipe: Experiment = BASE) -> StageUse:
    """Run a recipe up to `classify` through a storage, as a new process would."""
    result_cache_of(str(storage)).clear()
    views = cached_views(recipe.data)
    executor = StoreExecutor(StageStore(str(storage)), view_digests(views))
    artifacts = views._asdict()
    for step in plan(recipe)[:2]:
        inputs = {name: artifacts[name] for name in step.inputs}
        artifacts.update(executor(step, inputs, Context(seed=recipe.seed)))
    return executor.uses[-1]


def manifest(storage: Path, use: StageUse) -> dict[str, str]:
    file = storage / "stages" / use.stage / use.key / "manifest.json"
    found: dict[str, str] = json.loads(file.read_text())["computed_with"]
    return found


def test_a_storage_keeps_the_choice_and_a_key_means_one_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    race_is_won_by("bfloat16", monkeypatch)
    first = train(one)
    assert first.chosen == {
        "classify.training.precision": "bfloat16",
        "classify.training.layout": "channels_last",
    }
    assert manifest(one, first).items() >= first.chosen.items()
    race_is_won_by("float32", monkeypatch)
    again = train(one)  # what was stored holds, whatever another process would measure
    assert (again.key, again.chosen, again.reused) == (first.key, first.chosen, True)
    elsewhere = train(other)
    assert elsewhere.chosen["classify.training.precision"] == "float32"
    assert elsewhere.key != first.key
    assert manifest(other, elsewhere)["classify.training.precision"] == "float32"
    written = train(one, assign(BASE, first.chosen))
    assert (written.key, written.chosen, written.reused) == (first.key, {}, True)
    assert len(list((one / "stages" / "precision").iterdir())) == 1


def test_another_network_or_batch_is_measured_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    race_is_won_by("bfloat16", monkeypatch)
    train(tmp_path)
    race_is_won_by("float32", monkeypatch)
    larger = train(tmp_path, assign(BASE, {"classify.training.batch_size": 48}))
    assert larger.chosen["classify.training.precision"] == "float32"
    assert len(list((tmp_path / "stages" / "precision").iterdir())) == 2


def test_a_short_training_is_not_measured(tmp_path: Path) -> None:
    chosen = {"classify.training.precision": "float32", "classify.training.layout": "channels_last"}
    assert train(tmp_path).chosen == chosen
    assert train(tmp_path, assign(BASE, chosen)).reused
    assert not (tmp_path / "stages" / "precision").exists()


def test_the_images_of_all_phases_count() -> None:
    step = plan(assign(BASE, {"classify.then": [{"epochs": 2, "lr": 0.1}]}))[1]
    trunk = to_artifact(build_trunk("fastnet", 8), "fastnet", 8)
    inputs = {"known_train": cached_views(BASE.data).known_train, "backbone": trunk}
    assert pipeline._images(step, inputs) == 3 * len(inputs["known_train"].indices)


def test_what_is_set_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    race_is_won_by("bfloat16", monkeypatch)
    views = cached_views(BASE.data)
    recipe = assign(BASE, {"classify.training.precision": "float32"})
    pretrain, classify = plan(recipe)[:2]
    inputs = {"known_train": views.known_train}
    inputs |= pipeline.run_step(pretrain, inputs, Context())
    training = with_precision(classify, inputs, Context()).settings.training  # type: ignore[attr-defined]
    assert (training.precision, training.layout) == ("float32", "channels_last")
    assert with_precision(pretrain, inputs, Context()) is pretrain  # it trains nothing


@pytest.mark.parametrize(
    "change",
    [
        {"processor": "another"},
        {"cpu_kernels": "DEFAULT"},
        {"threads": "7"},
        {"gpu": "NVIDIA H200"},
        {"torch": "9.9.0"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_choice_holds_for_one_kind_of_machine(change: dict[str, str]) -> None:
    race, here = Race("resnet32", 32, 128), computed_with()
    assert race_key(race, here) == race_key(race, {**here, "wait_policy": "active"})
    assert race_key(race, here) == race_key(race, {**here, "torch": here["torch"] + ".post1"})
    assert race_key(race, {**here, **change}) != race_key(race, here)
    assert race_key(race._replace(image_size=64), here) != race_key(race, here)


def test_groups_on_gpus_have_a_rule() -> None:
    recipe = assign(BASE, {"pretrain.training.precision": "float32"})
    found = for_gpu_groups(recipe)
    assert (found.classify.training.precision, found.classify.training.layout) == (
        "bfloat16",
        "channels_last",
    )
    assert found.pretrain.training.precision == "float32"


def test_one_process_measures_once_and_writes_it_into_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    race_is_won_by("bfloat16", monkeypatch)
    sets = [part for text in (*SMALL, "update.training.epochs=1") for part in ("--set", text)]
    words = ["experiments/digits.yaml", *sets, "--device", "cpu", "--out", str(tmp_path)]
    assert command.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    monkeypatch.undo()  # the recipe says all that is needed
    written = load_experiment(tmp_path / "experiment.yaml")
    assert written.classify.training.precision == "bfloat16"
    assert command.main([str(tmp_path / "experiment.yaml"), "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_workers_of_a_group_get_what_the_trial_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    race_is_won_by("bfloat16", monkeypatch)
    use = train(tmp_path)
    step = plan(assign(BASE, use.chosen))[1]
    group = GroupRunner(BASE, StageStore(str(tmp_path)), workers=2)
    found, _ = group(step, use.key, lambda metrics, epoch: None)  # stored: no group starts
    assert found.key == use.key
    assert plan(group.experiment)[1].settings == step.settings
