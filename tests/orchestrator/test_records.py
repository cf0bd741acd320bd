from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student_t

from orchestrator.records import (
    FinalistRecord,
    GateRecord,
    Objective,
    SweepRecord,
    best_finalist,
    interval,
)
from orchestrator.trials.finalists import FRACTION
from tests.helpers.factory import make_record
from trainables.errors import ConfigError


def test_record_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    path = record.save(tmp_path / "deep")
    assert path == tmp_path / "deep" / "sweep.json"
    assert SweepRecord.load(tmp_path / "deep") == record


def test_saving_again_replaces_and_leaves_no_draft(tmp_path: Path) -> None:
    record = make_record(tmp_path / "arrays")
    record.save(tmp_path / "sweep")
    record.seconds = 7.0
    record.save(tmp_path / "sweep")
    assert SweepRecord.load(tmp_path / "sweep").seconds == 7.0
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["sweep.json"]


def test_unknown_key_is_an_error(tmp_path: Path) -> None:
    path = make_record(tmp_path / "arrays").save(tmp_path)
    path.write_text(path.read_text().replace('"seconds": 171.0', '"secs": 171.0'))
    with pytest.raises(ConfigError, match="secs"):
        SweepRecord.load(tmp_path)


def test_missing_record_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SweepRecord.load(tmp_path)


@pytest.mark.parametrize(
    "values", [[0.98, 0.99, 0.985], [1.0, 0.822], [0.0, 0.4], [0.721, 0.63], [0.0, 1.0]]
)
def test_intervals_of_fractions_stay_between_zero_and_one(values: list[float]) -> None:
    found = interval(values, fraction=True)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high


def test_interval_of_fractions_is_the_t_interval_of_logits() -> None:
    values = [0.6, 0.7, 0.72]
    logits = np.log(np.array(values) / (1 - np.array(values)))
    ends = student_t.interval(0.95, 2, loc=logits.mean(), scale=logits.std(ddof=1) / np.sqrt(3))
    found = interval(values, fraction=True)
    np.testing.assert_allclose([found.low, found.high], 1 / (1 + np.exp(-np.array(ends))))


def test_interval_of_other_numbers_is_the_t_interval() -> None:
    ends = student_t.interval(0.95, 2, loc=2.0, scale=1.0 / np.sqrt(3))
    found = interval([1.0, 2.0, 3.0])
    np.testing.assert_allclose([found.low, found.high], ends)


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = interval([1.0, 1.0, 1.0], fraction=True)
    assert (found.low, found.mean, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "fraction"),
    [
        ("evaluate/accuracy/few", True),
        ("evaluate/novelty/auroc/many", True),
        ("evaluate/update/accuracy/novel", True),
        ("evaluate/prior_shift/forward_50/known", True),
        ("evaluate/update/forgetting", False),
        ("evaluate/cost/parameters", False),
        ("evaluate/calibration/nll", False),
        ("evaluate/prior_shift/strength", False),
        ("evaluate/pool/size", False),
    ],
)
def test_metrics_between_zero_and_one_are_known(name: str, fraction: bool) -> None:
    assert (FRACTION.match(name) is not None) == fraction


def test_record_of_before_names_changed_is_read(tmp_path: Path) -> None:
    record = make_record(tmp_path / "arrays")
    path = record.save(tmp_path / "sweep")
    document = json.loads(path.read_text())
    document["study"] = document.pop("space")
    document["objectives"] = [{"metric": "evaluate/update/without", "mode": "max"}]
    document["trials"][0]["metrics"] = {"evaluate/update/without": 0.25}
    interval = {"mean": 0.5, "low": 0.5, "high": 0.5, "values": [0.5]}
    document["finalists"][0]["metrics"] = {"validation/evaluate/discover/num_clusters": interval}
    path.write_text(json.dumps(document))
    found = SweepRecord.load(tmp_path / "sweep")
    assert found.space == record.space
    assert found.objectives[0].metric == "evaluate/update/accuracy_before"
    assert found.trials[0].metrics == {"evaluate/update/accuracy_before": 0.25}
    assert [*found.finalists[0].metrics] == ["validation/evaluate/discover/num_new_clusters"]
    assert '"study"' not in found.model_dump_json()


# --- the best finalist ------------------------------------------------------------------------

METRIC, OTHER = "evaluate/accuracy/balanced", "evaluate/calibration/ece"


def finalist(name: str, **metrics: float) -> FinalistRecord:
    """A finalist by validation and test (of the first metric) and error (of the second)."""
    named = {"validation": f"validation/{METRIC}", "test": METRIC, "error": f"validation/{OTHER}"}
    found = {named[key]: interval([value]) for key, value in metrics.items()}
    return FinalistRecord(trial_id=name, params={}, seeds=[1], metrics=found)


def test_the_best_finalist_is_that_of_validation_whatever_the_test_says() -> None:
    three = [
        finalist("a", validation=0.70, test=0.90),
        finalist("b", validation=0.80, test=0.10),
        finalist("c", validation=0.75, test=0.95),
    ]
    up = [Objective(metric=METRIC, mode="max")]
    down = [Objective(metric=METRIC, mode="min")]
    for order in (three, three[::-1]):
        assert best_finalist(order, up).trial_id == "b"
        assert best_finalist(order, down).trial_id == "a"


def test_a_finalist_without_the_metric_on_validation_is_the_last() -> None:
    blind, poor = finalist("blind", test=0.99), finalist("poor", validation=0.01, test=0.0)
    assert best_finalist([blind, poor], [Objective(metric=METRIC, mode="max")]).trial_id == "poor"


def test_ranks_of_several_objectives_are_added() -> None:
    # ranks by accuracy 0, 1, 2, 3 and by error 3, 0, 1, 2
    four = [
        finalist("a", validation=0.9, error=0.4),
        finalist("b", validation=0.8, error=0.1),
        finalist("c", validation=0.7, error=0.2),
        finalist("d", validation=0.6, error=0.3),
    ]
    both = [Objective(metric=METRIC, mode="max"), Objective(metric=OTHER, mode="min")]
    assert best_finalist(four, both).trial_id == "b"
    assert best_finalist(four[::-1], both).trial_id == "b"
    # of a, c and d: 0 + 2, 1 + 0 and 2 + 1
    assert best_finalist([four[0], four[2], four[3]], both).trial_id == "c"
    # a tie is the first's
    assert best_finalist([four[0], four[3]], both).trial_id == "a"
    assert best_finalist([four[3], four[0]], both).trial_id == "d"


@pytest.mark.parametrize(("passed", "verdict"), [(True, "passed"), (False, "refused")])
def test_a_gate_of_before_has_the_verdict_that_it_meant(passed: bool, verdict: str) -> None:
    before = json.dumps({"name": "few", "passed": passed, "reason": "lost 1.5", "settings": {}})
    found = GateRecord.model_validate_json(before)
    assert (found.verdict, found.origin, found.needs) == (verdict, "", None)
    assert GateRecord(name="few", passed=passed, reason="").verdict == verdict
    assert GateRecord.model_validate_json(found.model_dump_json()) == found


def test_a_refusal_that_passed_is_an_error() -> None:
    for passed, verdict in ((True, "refused"), (False, "cannot tell")):
        with pytest.raises(ValueError, match="gate 'few': passed is"):
            GateRecord(name="few", passed=passed, reason="", verdict=verdict)
