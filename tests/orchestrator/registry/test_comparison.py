"""Champion and challenger on equal terms: real models, a real registry."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.records import FinalistRecord, Interval, PromotionRecord
from orchestrator.registry import comparison
from orchestrator.registry.comparison import (
    LATENCY,
    comparable_metrics,
    gate_metrics,
    latency_metrics,
    time_models,
)
from orchestrator.registry.gate_settings import choose_gates
from orchestrator.registry.promote import judge_again, promote
from orchestrator.registry.versions import Registry
from orchestrator.trials.finalists import of_served
from tests.helpers.exported import exported, exported_before, new_run, recipe, views_of
from trainables.artifacts import Evaluation, load_artifact
from trainables.inference.card import describe_model
from trainables.inference.evaluate_exported import measure
from trainables.inference.model import load_model
from trainables.methods.gates.forgetting import Forgetting
from trainables.methods.gates.latency import Latency
from trainables.methods.gates.overall import Overall
from trainables.settings import dump_yaml

pytestmark = [
    # MLflow's own use of SQLAlchemy and pandas.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method"),
]

ACCURACY = "test/accuracy/open"


def stored(folder: Path) -> dict[str, float]:
    metrics = load_artifact(Evaluation, folder / "evaluation").metrics
    return of_served(metrics, "test", "updated")


class Desk:
    """A registered model whose versions are real ones."""

    def __init__(self, root: Path, model: str) -> None:
        self.uri = f"sqlite:///{root}/mlflow.db"
        self.registry, self.model = Registry(self.uri), model
        self.run_id = new_run(self.uri, root)

    def challenge(self, folder: Path, *gates, **changes: float) -> PromotionRecord:
        metrics = stored(folder) | {f"test/{k}": v for k, v in changes.items()}
        return promote(
            metrics,
            registry=self.registry,
            model=self.model,
            folder=folder,
            run_id=self.run_id,
            gates=gates or None,
        )

    def word(self, record: PromotionRecord, gate: str) -> tuple[bool, str]:
        (found,) = (w for w in record.gates if w.name == gate)
        return found.passed, found.reason


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture
def desk(root: Path, request: pytest.FixtureRequest) -> Desk:
    return Desk(root, request.node.name)


def renamed(target: Path, source: Path, **changes: object) -> Path:
    """Return a copy of a model whose card says something else."""
    import json

    folder = shutil.copytree(source, target)
    card = json.loads((folder / "model.json").read_text("utf-8"))
    (folder / "model.json").write_text(json.dumps({**card, **changes}), encoding="utf-8")
    return folder


def test_every_gate_speaks_and_a_refusal_names_all_that_failed(desk: Desk) -> None:
    first = desk.challenge(exported())
    assert first.promoted
    assert [word.name for word in first.gates] == [gate.name for gate in choose_gates()]
    assert desk.word(first, "latency")[1].endswith("there is no champion to compare with")
    champion = stored(exported())
    few, ece = champion["test/accuracy/few"], champion["test/calibration/ece"]
    worse = {"accuracy/few": few - 0.05, "calibration/ece": ece + 0.06}
    record = desk.challenge(exported(1), **{**champion_free(champion), **worse})
    failed = {word.name: word.reason for word in record.gates if not word.passed}
    assert failed.keys() >= {"few", "calibration"}
    assert failed.keys() <= {"few", "calibration", "latency"}
    assert f"{few - 0.05:.4f} against {few:.4f}: lost 5.00 points, allowed 1.00" in failed["few"]
    assert f"{ece + 0.06:.4f} against {ece:.4f}: lost 6.00 points" in failed["calibration"]
    assert desk.registry.aliases(desk.model) == {"champion": "1", "challenger": "2"}
    tags = desk.registry.version_tags(desk.model, "2")
    assert tags["orchestrator.verdict"].startswith("refused by calibration, few")
    assert float(tags["orchestrator.latency_ms"]) > 0
    verdict = desk.registry.version_tags(desk.model, "1")["orchestrator.verdict"]
    assert verdict == "1 gate passed, 11 not asked"  # of a first version there is no other one


def champion_free(metrics: dict[str, float]) -> dict[str, float]:
    """Return metrics by their name below ``test/``."""
    return {k.removeprefix("test/"): v for k, v in metrics.items() if k.startswith("test/")}


def test_latency_is_measured_for_both_in_turns(desk: Desk, tmp_path: Path) -> None:
    desk.challenge(exported(), Overall())
    another = shutil.copytree(exported(), tmp_path / "another")
    (another / "note.txt").write_text("the same files once more would be version 1")
    record = desk.challenge(another, Latency(allowed_regression=1e6))
    assert record.version == "2"
    passed, reason = desk.word(record, "latency")
    assert passed
    mine, theirs = (float(reason.split()[position].rstrip(":;")) for position in (1, 3))
    assert mine > 0
    assert theirs > 0
    assert LATENCY not in desk.registry.metrics(desk.model, "1")  # it belongs to this machine


class Clock:
    """Time that passes only while a model answers."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


def test_slow_model_is_told_from_a_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(comparison, "time", clock)

    class Timed:
        """A real model whose answers take as long as they are said to."""

        def __init__(self, model: Any, seconds: float) -> None:
            self.model, self.card, self.seconds = model, model.card, seconds

        def predict(self, images: Any) -> Any:
            clock.now += self.seconds
            return self.model.predict(images)

    model = load_model(exported())
    times = time_models([Timed(model, 0.96), Timed(model, 0.32)], rounds=9)
    assert [len(values) for values in times] == [9, 9]
    slow, fast = (latency_metrics(values)[LATENCY] for values in times)
    assert (slow, fast) == pytest.approx((30.0, 10.0))  # milliseconds per image of a batch of 32


def test_interval_of_a_median_comes_from_the_order() -> None:
    found = latency_metrics([float(n) for n in range(21)])
    assert found == {LATENCY: 10.0, f"{LATENCY}/low": 6.0, f"{LATENCY}/high": 14.0}
    assert latency_metrics([2.0])[f"{LATENCY}/low"] == 2.0


def test_other_test_views_are_measured_again(desk: Desk, tmp_path: Path) -> None:
    desk.challenge(exported(), Overall(allowed_regression=100))
    # the same split of classes, other test images: another seed of the data would change both
    other = shutil.copytree(exported(1), tmp_path / "other")
    changed = recipe(1, "evaluate.few_below=40")
    (other / "experiment.yaml").write_text(dump_yaml(changed), encoding="utf-8")
    from orchestrator.execution.store_executor import cached_views

    describe_model(other, cached_views(changed.data))
    gate = Overall(allowed_regression=100)
    record = desk.challenge(other, gate, **{"accuracy/open": 0.999})
    passed, reason = desk.word(record, "comparison")
    assert passed
    assert "version 1 was tested on another test set ('digits')" in reason
    mine, theirs = stored(exported(1))[ACCURACY], stored(exported())[ACCURACY]
    # not the 0.999 that was handed in: both were measured
    assert desk.word(record, "overall")[1].startswith(f"{ACCURACY} {mine:.4f} against {theirs:.4f}")


def test_each_model_gets_images_as_its_own_training_made_them(desk: Desk) -> None:
    desk.challenge(exported(), Overall(allowed_regression=100))
    larger = exported(1, "data.image_size=12")
    record = desk.challenge(larger, Overall(allowed_regression=100))
    assert "both exported models" in desk.word(record, "comparison")[1]
    mine, theirs = stored(larger)[ACCURACY], stored(exported())[ACCURACY]
    assert desk.word(record, "overall")[1].startswith(f"{ACCURACY} {mine:.4f} against {theirs:.4f}")


def test_other_classes_cannot_be_compared_and_force_is_recorded(desk: Desk) -> None:
    desk.challenge(exported(), Overall())
    other = exported(0, "data.seed=5")
    record = desk.challenge(other)
    assert not record.promoted
    passed, reason = desk.word(record, "comparison")
    assert not passed
    assert "version 1 was tested on another test set ('digits')" in reason
    assert "alone knows" in reason
    assert "does not know" in reason
    failed = [word.name for word in record.gates if not word.passed]
    compared = [gate.name for gate in choose_gates() if hasattr(gate, "metric")]
    assert failed == ["comparison", *compared]
    assert desk.word(record, "few")[1].endswith("cannot be compared")
    assert desk.word(record, "provenance")[0]
    assert not judge_again("2", registry=desk.registry, model=desk.model).promoted
    forced = judge_again("2", registry=desk.registry, model=desk.model, force=True)
    assert forced.promoted
    assert not desk.word(forced, "comparison")[0]
    assert desk.registry.aliases(desk.model) == {"champion": "2", "previous": "1"}
    assert desk.registry.version_tags(desk.model, "2")["orchestrator.verdict"].endswith("; forced")


def test_force_does_not_make_an_upper_bound_champion(desk: Desk) -> None:
    desk.challenge(exported(), Overall())
    for position, value in enumerate((1.0, float("nan"))):
        version = desk.registry.register(
            desk.model,
            exported(1),
            new_run(desk.uri, Path(desk.uri.removeprefix("sqlite:///")).parent),
            {**stored(exported(1)), "evaluate/oracle": value},
            {},
        )
        assert version == str(2 + position)
        got = judge_again(version, registry=desk.registry, model=desk.model, force=True)
        assert not got.promoted
    assert desk.registry.alias(desk.model, "champion") == "1"


def test_versions_of_before_are_measured_as_versions_are_today(desk: Desk, tmp_path: Path) -> None:
    old = exported_before(tmp_path / "old")
    metrics = {"evaluate/accuracy/balanced": 0.123, "evaluate/update/forgetting": 0.25}
    version = desk.registry.register(desk.model, old, desk.run_id, metrics, {})
    alone = judge_again(version, registry=desk.registry, model=desk.model, gates=[Overall()])
    assert alone.promoted
    assert "was evaluated again" in desk.word(alone, "comparison")[1]
    views = views_of()
    again = measure(
        load_model(old),
        views,
        recipe().evaluate,
        class_names=views.summary["known_class_names"],
        class_counts=views.summary["class_counts"],
    )
    assert desk.word(alone, "overall")[1].startswith(f"{ACCURACY} {again[ACCURACY]:.4f};")
    record = desk.challenge(exported(1), Overall(allowed_regression=100), Forgetting())
    assert "tested in another way" in desk.word(record, "comparison")[1]
    assert f"against {again[ACCURACY]:.4f}" in desk.word(record, "overall")[1]
    assert "against 0.2500" in desk.word(record, "forgetting")[1]  # stored with the old version


def test_unreadable_test_views_cannot_be_compared(desk: Desk, tmp_path: Path) -> None:
    desk.challenge(exported(), Overall())
    lost = renamed(tmp_path / "lost", exported(1), evaluation_digest="another")
    gone = recipe(1, "data.source=folder:/no/such/place")
    (lost / "experiment.yaml").write_text(dump_yaml(gone), encoding="utf-8")
    record = desk.challenge(lost, Overall())
    assert not record.promoted
    assert "the challenger's test set cannot be read" in desk.word(record, "comparison")[1]


def test_test_views_are_read_where_this_machine_has_them(desk: Desk, tmp_path: Path) -> None:
    desk.challenge(exported(), Overall())
    moved = renamed(tmp_path / "moved", exported(1), evaluation_digest="another")
    stored_words = recipe(1, "data.root=last_name_alone")
    (moved / "experiment.yaml").write_text(
        dump_yaml(stored_words).replace("source: digits", "source: folder:digits"), "utf-8"
    )
    version = desk.registry.register(desk.model, moved, desk.run_id, stored(moved), {})
    again = {"registry": desk.registry, "model": desk.model, "gates": [Overall()]}
    refused = judge_again(version, **again)
    assert "cannot be read" in desk.word(refused, "comparison")[1]
    record = judge_again(version, data=recipe(1).data, **again)
    assert "were evaluated on the challenger's test set" in desk.word(record, "comparison")[1]


def test_version_without_card_cannot_be_compared(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "weights.json").write_text("[1]", encoding="utf-8")
    old = desk.registry.register(desk.model, tmp_path, desk.run_id, {ACCURACY: 0.1}, {})
    desk.registry.set_alias(desk.model, "champion", old)
    record = desk.challenge(exported(), Overall())
    assert not record.promoted
    assert "version 1 does not name the test set" in desk.word(record, "comparison")[1]


def test_equal_evaluation_digests_keep_the_stored_numbers(desk: Desk) -> None:
    desk.challenge(exported(), Overall())
    version = desk.registry.register(desk.model, exported(1), desk.run_id, {ACCURACY: 0.3}, {})
    terms = comparable_metrics(
        desk.registry,
        desk.model,
        version=version,
        champion="1",
        metrics={ACCURACY: 0.3},
        gates=[Overall()],
    )
    assert terms.challenger == {ACCURACY: 0.3}
    assert terms.champion == pytest.approx(stored(exported()))
    assert (terms.note, terms.problem) == ("", "")


def test_finalists_numbers_become_means_intervals_and_seeds() -> None:
    metrics = {
        "m": Interval(mean=0.5, low=0.4, high=0.6, values=[0.45, 0.55]),
        "validation/m": Interval(mean=0.9, low=0.9, high=0.9, values=[0.9, 0.9]),
    }
    several = FinalistRecord(trial_id="t", params={}, seeds=[3, 7], metrics=metrics)
    assert gate_metrics(several) == {
        "m": 0.5,
        "m/low": 0.4,
        "m/high": 0.6,
        "m/seed/3": 0.45,
        "m/seed/7": 0.55,
    }
    single = {"m": Interval(mean=0.5, low=0.5, high=0.5, values=[0.5])}
    one = FinalistRecord(trial_id="t", params={}, seeds=[3], metrics=single)
    assert gate_metrics(one) == {"m": 0.5}  # one seed has no interval, not one of width zero


def test_mlflow_shows_the_verdict(desk: Desk) -> None:
    desk.challenge(exported(), Overall())
    found = MlflowClient(desk.uri, desk.uri).get_model_version_by_alias(desk.model, "champion")
    assert found.tags["orchestrator.verdict"] == "1 gate not asked"
