"""Who becomes champion, with a real registry."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pytest
from mlflow import MlflowClient
from pydantic import Field

from orchestrator.promote import (
    bars,
    default_gates,
    promote,
    reconsider,
    rollback,
    standing,
)
from orchestrator.records import PromotionRecord
from orchestrator.registry import Registry
from trainables.errors import ConfigError
from trainables.inference import Card
from trainables.methods.gates import Gate

pytestmark = [
    # MLflow's own use of SQLAlchemy.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    # MLflow's own use of pandas.
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    # The served model takes several forms of input and checks them itself.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
]

ACCURACY = "evaluate/accuracy/balanced"


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
        self, accuracy: float, *, gates: Sequence[Gate] = (Better(),), **more: float
    ) -> PromotionRecord:
        self.count += 1
        metrics = {ACCURACY: accuracy, **{f"evaluate/{k}": v for k, v in more.items()}}
        return promote(
            metrics,
            registry=self.registry,
            model=self.model,
            folder=self.exported(),
            run_id=self.run_id,
            gates=gates,
        )

    def exported(self) -> Path:
        """Write what makes a folder a model, measured on the same views as all others here."""
        folder = self.root / self.model / str(self.count)
        (folder / "updated_classifier").mkdir(parents=True)
        (folder / "updated_classifier" / "artifact.json").write_text(f"[{self.count}]")
        card = Card(
            class_names=("a", "b"),
            num_known=2,
            image_size=8,
            class_counts=(9, 1),
            yardstick="one",
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
    desk.challenge(0.5)
    record = desk.challenge(0.4)
    assert not record.promoted
    assert [gate.reason for gate in record.gates] == ["0.40 against 0.50"]
    assert desk.aliases == {"champion": "1", "challenger": "2"}


def test_promoted_challenger_is_no_challenger_any_more(desk: Desk) -> None:
    desk.challenge(0.5)
    desk.challenge(0.4)
    lenient = Better(allowed=0.2)
    assert reconsider("2", registry=desk.registry, model=desk.model, gates=[lenient]).promoted
    assert desk.aliases == {"champion": "2", "previous": "1"}


def test_champion_is_not_reconsidered(desk: Desk) -> None:
    desk.challenge(0.5)
    with pytest.raises(ConfigError, match="is the champion already"):
        reconsider("1", registry=desk.registry, model=desk.model, gates=[Better()])


def test_unknown_version_is_one_line(desk: Desk) -> None:
    desk.challenge(0.5)
    with pytest.raises(ConfigError, match="has no version 7; its versions: 1"):
        reconsider("7", registry=desk.registry, model=desk.model, gates=[Better()])


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


def test_marks_that_are_off_bar_nothing() -> None:
    assert bars({"evaluate/oracle": 0.0, "evaluate/leaked_pretraining": 0.0}) == []


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
    assert standing(desk.registry, desk.model) == [
        ("2", "champion", "accuracy 0.600"),
        ("1", "previous", "accuracy 0.500"),
    ]


def test_unknown_model_is_one_line(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="no registered model 'nobody'"):
        standing(desk.registry, "nobody")


def test_default_gates_are_those_on_the_shelf() -> None:
    assert [gate.name for gate in default_gates()] == sorted(Gate.shelf)
    assert {"overall", "few", "novelty"} <= set(Gate.shelf)
