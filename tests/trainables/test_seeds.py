"""Several seeds of one recipe in this process, one after the other or as one training."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainables import __main__ as command
from trainables.context import Context
from trainables.data import Views
from trainables.experiment import Experiment
from trainables.seeds import run_seeds
from trainables.settings import assign

SMALL: dict[str, Any] = {
    "data.max_per_class": 30,
    "classify.training.epochs": 1,
    "classify.training.lr": 0.001,
    "classify.training.batch_size": 64,
    "update.training.epochs": 1,
}
SEEDS = (1, 2)


@pytest.mark.parametrize("fuse", [True, False])
def test_each_seed_gives_what_it_gives_alone(base: Experiment, views: Views, fuse: bool) -> None:
    found: dict[int, list[dict[str, float]]] = {seed: [] for seed in SEEDS}
    contexts = [
        Context(seed=seed, report=lambda row, epoch, own=own: own.append(dict(row)))  # type: ignore[misc]
        for seed, own in found.items()
    ]
    runs = list(run_seeds(base, contexts, views=views, fuse=fuse))
    alone = list(run_seeds(base, [Context(seed=SEEDS[1])], views=views, fuse=fuse))
    assert len(runs) == len(SEEDS)
    assert "evaluation" in runs[0]
    bias, other = (run["classifier"].state["bias"] for run in (runs[1], alone[0]))
    assert bias.tolist() == pytest.approx(other.tolist(), abs=1e-4)
    assert not (bias == runs[0]["classifier"].state["bias"]).all()
    for rows in found.values():
        trained = [row for row in rows if "classify/loss" in row]
        assert len(trained) == 1
        assert ("classify/steps_fused" in trained[0]) == fuse


def test_what_can_not_be_fused_runs_one_by_one(base: Experiment, views: Views) -> None:
    recipe = assign(base, {"classify.mixing": "mixup"})
    contexts = [Context(seed=seed) for seed in SEEDS]
    assert len(list(run_seeds(recipe, contexts, views=views, fuse=True))) == len(SEEDS)


def test_the_command_keeps_what_each_seed_gave(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [part for path, value in SMALL.items() for part in ("--set", f"{path}={value}")]
    arguments = ["experiments/digits.yaml", *sets, "--device", "cpu", "--seeds", "4,5"]
    assert command.main([*arguments, "--out", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["4", "5"]
    for seed, metrics in printed.items():
        folder = tmp_path / f"seed-{seed}"
        assert json.loads((folder / "metrics.json").read_text()) == metrics
        assert f"seed: {seed}" in (folder / "experiment.yaml").read_text()
        assert (folder / "classifier").is_dir()


def test_a_seed_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["experiments/digits.yaml", "--seeds", "0,one"]) == 2
    assert capsys.readouterr().err == (
        "error: --seeds: allowed: whole numbers with commas, e.g. 0,1,2; received 0,one\n"
    )
