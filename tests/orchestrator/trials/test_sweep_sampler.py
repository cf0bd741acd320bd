"""The sampler of a sweep: in its record, and the same when it goes on."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.options import SweepOptions
from orchestrator.records import SweepRecord
from orchestrator.search.sampler_names import SamplerPlan
from orchestrator.trials.sweep_start import folder_of, open_record, open_sampler
from trainables.errors import ConfigError
from trainables.experiment import Experiment

BASE = Experiment()


def begin(storage: Path, **given: Any) -> tuple[SweepRecord, SamplerPlan]:
    options = SweepOptions(**{"name": "monday", "storage": str(storage), **given})
    record = open_record(options, BASE)
    plan = open_sampler(options, BASE, record)
    record.save(folder_of(options, "monday"))
    return record, plan


def test_the_record_names_the_sampler_and_what_it_leaves_to_tpe(tmp_path: Path) -> None:
    record, plan = begin(tmp_path, space="open_world", sampler="gp")
    assert record.sampler == "gp"
    assert record.left_to_tpe == [*plan.left]
    assert "score.method.knn.k" in record.left_to_tpe
    stored = SweepRecord.load(tmp_path / "sweeps" / "monday")
    assert (stored.sampler, stored.left_to_tpe) == ("gp", record.left_to_tpe)
    assert begin(tmp_path, space="open_world", sampler="gp")[1] == plan, "it goes on"


def test_tpe_is_the_default_and_leaves_nothing(tmp_path: Path) -> None:
    record, plan = begin(tmp_path)
    assert (record.sampler, record.left_to_tpe, plan) == ("tpe", [], SamplerPlan("tpe"))


def test_a_sweep_goes_on_with_its_sampler_only(tmp_path: Path) -> None:
    begin(tmp_path, sampler="random")
    with pytest.raises(ConfigError, match="with --sampler random, now it is tpe; give a new") as e:
        begin(tmp_path)
    assert "\n" not in str(e.value)


def test_a_sweep_from_before_samplers_had_names_goes_on_with_tpe(tmp_path: Path) -> None:
    record, _ = begin(tmp_path)
    folder = tmp_path / "sweeps" / "monday"
    new = {"sampler", "left_to_tpe", "asking_seconds"}
    (folder / "sweep.json").write_text(record.model_dump_json(exclude=new))
    assert begin(tmp_path)[0].sampler == "tpe"


def test_objectives_of_the_command_decide_what_can_be_searched(tmp_path: Path) -> None:
    one = [{"metric": "evaluate/novelty/auroc", "mode": "max"}]
    record, plan = begin(tmp_path, sampler="cmaes", objectives=one)
    assert plan.own == {"update.training.lr"}
    assert "classify.loss" in record.left_to_tpe
    with pytest.raises(ConfigError, match=r"one objective; .* received evaluate/update"):
        begin(tmp_path / "other", sampler="cmaes")
