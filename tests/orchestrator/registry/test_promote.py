"""Who becomes champion, with a real registry."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pytest
from mlflow import MlflowClient
from pydantic import Field

from orchestrator.records import PromotionRecord
from orchestrator.registry.floors import BEST_TAG
from orchestrator.registry.gate_settings import choose_gates
from orchestrator.registry.promote import (
    disqualifications,
    judge_again,
    list_versions,
    promote,
    rollback,
)
from orchestrator.registry.versions import Registry
from trainables.errors import ConfigError
from trainables.inference.card import Card
from trainables.methods.gates import Gate
from trainables.methods.gates.calibration import Calibration
from trainables.methods.gates.few import Few
from trainables.methods.gates.overall import Overall

pytestmark = [
    # MLflow's own use of SQLAlchemy.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    # MLflow's own use of pandas.
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    # The served model takes several forms of input and checks them itself.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
]

ACCURACY = "test/accuracy/open"


class Better(Gate):
    """Passes a challenger whose accuracy is not below the champion's by more than allowed."""

    allowed: Annotated[float, Field(ge=0)] = 0.0

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        floor = (champion or {}).get(ACCURACY, 0.0) - self.allowed
        return challenger[ACCURACY] >= floor, f"{challenger[ACCURACY]:.2f} against {floor:.2f}"


del Gate.shelf[Better.name]  # this file's gate is nobody else's default


class Desk:
    """A model of its own in a shared registry, and a way to make challengers for it."""

    def __init__(self, root: Path, model: str) -> None:
        self.uri = f"sqlite:///{root}/mlflow.db"
        self.registry, self.root, self.model = Registry(self.uri), root, model
        client = MlflowClient(self.uri)
        folder = (root / "artifacts").as_uri()
        found = client.get_experiment_by_name("promote")
        experiment = found.experiment_id if found else client.create_experiment("promote", folder)
        self.run_id = client.create_run(experiment).info.run_id
        self.count = 0

    def challenge(
        self,
        accuracy: float,
        *,
        gates: Sequence[Gate] = (Better(),),
        views: str = "one",
        **more: float,
    ) -> PromotionRecord:
        self.count += 1
        named = {f"{'test' if '/' in k else 'evaluate'}/{k}": v for k, v in more.items()}
        metrics = {ACCURACY: accuracy, **named}
        return promote(
            metrics,
            registry=self.registry,
            model=self.model,
            folder=self.exported(views),
            run_id=self.run_id,
            gates=gates,
        )

    def exported(self, views: str) -> Path:
        """Write what makes a folder a model, measured on test views of this digest."""
        folder = self.root / self.model / str(self.count)
        (folder / "classifier").mkdir(parents=True)
        (folder / "classifier" / "artifact.json").write_text(f"[{self.count}]")
        card = Card(
            class_names=("a", "b"),
            num_known=2,
            image_size=8,
            class_counts=(9, 1),
            evaluation_digest=views,
            source="digits",
            protocol_hash="one",
        )
        (folder / "model.json").write_text(card.model_dump_json(), encoding="utf-8")
        return folder

    @property
    def aliases(self) -> dict[str, str]:
        return self.registry.aliases(self.model)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("promote")


@pytest.fixture
def desk(root: Path, request: pytest.FixtureRequest) -> Desk:
    return Desk(root, request.node.name)


def test_first_challenger_becomes_champion(desk: Desk) -> None:
    record = desk.challenge(0.5)
    assert (record.promoted, record.version) == (True, "1")
    assert desk.aliases == {"champion": "1"}


def test_better_challenger_takes_over_and_the_old_champion_is_kept(desk: Desk) -> None:
    desk.challenge(0.5)
    assert desk.challenge(0.6).promoted
    assert desk.aliases == {"champion": "2", "previous": "1"}


def test_worse_challenger_is_refused_with_a_reason(desk: Desk) -> None:
    assert desk.challenge(0.5).champion is None  # it answers itself
    record = desk.challenge(0.4)
    assert not record.promoted
    assert record.champion == "1"
    assert [gate.reason for gate in record.gates] == ["0.40 against 0.50"]
    assert desk.aliases == {"champion": "1", "challenger": "2"}


def test_promoted_challenger_is_no_challenger_any_more(desk: Desk) -> None:
    desk.challenge(0.5)
    desk.challenge(0.4)
    lenient = Better(allowed=0.2)
    assert judge_again("2", registry=desk.registry, model=desk.model, gates=[lenient]).promoted
    assert desk.aliases == {"champion": "2", "previous": "1"}


def test_settings_of_a_gate_decide_and_are_recorded(desk: Desk) -> None:
    overall = [gate for gate in choose_gates() if gate.name == "overall"]
    desk.challenge(0.5, gates=overall)
    refused = desk.challenge(0.4, gates=overall)
    assert (refused.promoted, refused.gates[-1].settings) == (False, {})
    assert desk.registry.version_tags(desk.model, "2")["orchestrator.gates"] == "{}"
    chosen = choose_gates(["overall.allowed_regression=11"])
    lenient = [gate for gate in chosen if gate.name == "overall"]
    record = judge_again("2", registry=desk.registry, model=desk.model, gates=lenient)
    assert (record.promoted, record.gates[-1].settings) == (True, {"allowed_regression": 11.0})
    assert record.gates[-1].text().endswith("(--gate overall.allowed_regression=11.0)")
    told = desk.registry.version_tags(desk.model, "2")["orchestrator.gates"]
    assert json.loads(told) == {"overall": {"allowed_regression": 11.0}}


def test_champion_is_not_reconsidered(desk: Desk) -> None:
    desk.challenge(0.5)
    with pytest.raises(ConfigError, match="is the champion already"):
        judge_again("1", registry=desk.registry, model=desk.model, gates=[Better()])


def test_unknown_version_is_one_line(desk: Desk) -> None:
    desk.challenge(0.5)
    with pytest.raises(ConfigError, match="has no version 7; its versions: 1"):
        judge_again("7", registry=desk.registry, model=desk.model, gates=[Better()])


def test_rollback_swaps_champion_and_previous(desk: Desk) -> None:
    desk.challenge(0.5)
    desk.challenge(0.6)
    assert rollback(desk.registry, desk.model) == "1"
    assert desk.aliases == {"champion": "1", "previous": "2"}
    assert rollback(desk.registry, desk.model) == "2"


def test_rollback_without_previous_champion_is_one_line(desk: Desk) -> None:
    desk.challenge(0.5)
    with pytest.raises(ConfigError, match="no previous champion"):
        rollback(desk.registry, desk.model)


@pytest.mark.parametrize("mark", ["oracle", "leaked_pretraining"])
def test_upper_bound_is_not_even_registered(desk: Desk, mark: str) -> None:
    record = desk.challenge(0.99, **{mark: 1.0})
    assert (record.promoted, record.version) == (False, None)
    assert [gate.name for gate in record.gates] == [mark]
    assert desk.registry.versions(desk.model) == []


def test_a_trunk_of_unknown_pretraining_is_registered_and_named(desk: Desk) -> None:
    record = desk.challenge(0.5, unknown_pretraining=1.0)
    assert record.promoted
    tags = desk.registry.version_tags(desk.model, "1")
    assert tags["orchestrator.pretrained_on"] == "not known"


def test_marks_that_are_off_bar_nothing() -> None:
    assert disqualifications({"evaluate/oracle": 0.0, "evaluate/leaked_pretraining": 0.0}) == []


def test_promotion_without_gates_is_refused(desk: Desk) -> None:
    with pytest.raises(ValueError, match="at least one gate"):
        promote(
            {}, registry=desk.registry, model="x", folder=desk.root, run_id=desk.run_id, gates=[]
        )


def test_one_failed_gate_is_enough(desk: Desk) -> None:
    desk.challenge(0.5)
    record = desk.challenge(0.45, gates=[Better(allowed=0.1), Better()])
    assert [gate.passed for gate in record.gates] == [True, False]
    assert not record.promoted


def test_standing_lists_versions_newest_first(desk: Desk) -> None:
    desk.challenge(0.5)
    desk.challenge(0.6)
    assert list_versions(desk.registry, desk.model) == [
        ("2", "champion", "right answers 0.600"),
        ("1", "previous", "right answers 0.500"),
    ]


def test_unknown_model_is_one_line(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="no registered model 'nobody'"):
        list_versions(desk.registry, "nobody")


def test_default_gates_are_those_on_the_shelf() -> None:
    assert [gate.name for gate in choose_gates()] == sorted(Gate.shelf)
    assert {"overall", "few", "novelty"} <= set(Gate.shelf)


# --- the floor: the best champion so far ----------------------------------------------------------

STRICT = (Overall(allowed_regression=1.0, excused_regression=1.0),)


def around(value: float) -> dict[str, float]:
    """Return an interval so wide that every loss here may be noise."""
    return {"accuracy/open/low": value - 0.2, "accuracy/open/high": value + 0.2}


@pytest.mark.parametrize("gates", [STRICT, (Overall(),)], ids=["no noise", "excused as noise"])
def test_five_promotions_of_one_point_loss_each_end_at_the_second(
    desk: Desk, gates: Sequence[Gate]
) -> None:
    values = (0.90, 0.89, 0.88, 0.87, 0.86)
    records = [desk.challenge(value, gates=gates, **around(value)) for value in values]
    assert [record.promoted for record in records] == [True, True, False, False, False]
    assert desk.aliases == {"champion": "2", "previous": "1", "challenger": "5"}
    reason = records[2].gates[0].reason
    assert "best champion so far (version 1): " in reason
    assert f"{ACCURACY} 0.8800 against 0.9000: lost 2.00 points" in reason


def test_losses_that_noise_excuses_do_not_add_up(desk: Desk) -> None:
    values = (0.90, 0.881, 0.862, 0.843, 0.824, 0.805)
    records = [desk.challenge(value, gates=(Overall(),), **around(value)) for value in values]
    assert [record.promoted for record in records] == [True, True, *[False] * 4]


def test_ratchet_of_a_metric_that_is_better_lower_ends_too(desk: Desk) -> None:
    gates = (Calibration(),)  # 2 points are allowed
    values = (0.05, 0.07, 0.09)
    found = [desk.challenge(0.9, gates=gates, **{"calibration/ece": v}).promoted for v in values]
    assert found == [True, True, False]


def test_ratchet_of_a_band_ends_too_and_each_metric_has_its_own_floor(desk: Desk) -> None:
    gates = (Few(), Overall())  # 1 and 0.5 points are allowed
    steps = [(0.900, 0.50), (0.910, 0.49), (0.906, 0.49), (0.906, 0.48)]
    found = [desk.challenge(value, gates=gates, **{"accuracy/few": few}) for value, few in steps]
    assert [record.promoted for record in found] == [True, True, True, False]
    (refusal,) = (gate for gate in found[-1].gates if not gate.passed)
    assert refusal.name == "few"
    assert "(version 1): test/accuracy/few 0.4800 against 0.5000" in refusal.reason


def test_a_better_champion_raises_the_floor(desk: Desk) -> None:
    values = (0.90, 0.89, 0.95, 0.945, 0.935)
    found = [desk.challenge(value, gates=STRICT).promoted for value in values]
    assert found == [True, True, True, True, False]
    assert desk.challenge(0.942, gates=STRICT).promoted


def test_a_promotion_by_force_starts_the_floor_anew_where_gates_refused(desk: Desk) -> None:
    gates = (*STRICT, Few())
    for value in (0.90, 0.89, 0.88):
        desk.challenge(value, gates=gates, **{"accuracy/few": value - 0.4})
    again = {"registry": desk.registry, "model": desk.model}
    assert not judge_again("3", gates=gates, **again).promoted
    assert judge_again("3", gates=gates, force=True, **again).promoted
    assert desk.challenge(0.87, gates=gates, **{"accuracy/few": 0.48}).promoted
    assert not desk.challenge(0.86, gates=gates, **{"accuracy/few": 0.48}).promoted


def test_force_keeps_the_floors_of_gates_that_passed(desk: Desk) -> None:
    gates = (*STRICT, Few())
    desk.challenge(0.90, gates=gates, **{"accuracy/few": 0.500})
    desk.challenge(0.80, gates=gates, **{"accuracy/few": 0.495})  # refused by overall alone
    forced = judge_again("2", registry=desk.registry, model=desk.model, gates=gates, force=True)
    assert forced.promoted
    record = desk.challenge(0.80, gates=gates, **{"accuracy/few": 0.488})
    assert [gate.name for gate in record.gates if not gate.passed] == ["few"]


def test_a_rollback_takes_back_the_floor_that_the_version_had_raised(desk: Desk) -> None:
    desk.challenge(0.80, gates=STRICT)
    desk.challenge(0.90, gates=STRICT)
    rollback(desk.registry, desk.model)
    assert desk.challenge(0.795, gates=STRICT).promoted


def test_undoing_a_rollback_brings_its_floor_back(desk: Desk) -> None:
    for value in (0.80, 0.90, 0.895):
        desk.challenge(value, gates=STRICT)
    rollback(desk.registry, desk.model)
    rollback(desk.registry, desk.model)
    assert desk.aliases["champion"] == "3"
    assert not desk.challenge(0.885, gates=STRICT).promoted
    assert desk.challenge(0.891, gates=STRICT).promoted


def test_a_best_champion_that_was_deleted_sets_no_floor(desk: Desk) -> None:
    desk.challenge(0.90, gates=STRICT)
    desk.challenge(0.89, gates=STRICT)
    client = MlflowClient(desk.uri)
    client.delete_registered_model_alias(desk.model, "previous")
    client.delete_model_version(desk.model, "1")
    assert desk.challenge(0.88, gates=STRICT).promoted


def test_a_best_champion_that_cannot_be_compared_refuses(desk: Desk) -> None:
    desk.challenge(0.90, gates=STRICT)
    desk.challenge(0.89, gates=STRICT, views="other")
    judge_again("2", registry=desk.registry, model=desk.model, gates=STRICT, force=True)
    desk.registry.set_version_tags(desk.model, "2", {BEST_TAG: f'{{"{ACCURACY}": "1"}}'})
    record = desk.challenge(0.95, gates=STRICT, views="other")
    assert not record.promoted
    assert "best champion so far (version 1): version 1 was tested on another" in (
        record.gates[0].reason
    )
