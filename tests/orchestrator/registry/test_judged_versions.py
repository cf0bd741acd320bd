"""Versions with tables of outcomes in a real registry: who becomes champion, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.records import GateRecord, PromotionRecord
from orchestrator.registry import comparison
from orchestrator.registry.floors import BEST_TAG
from orchestrator.registry.promote import judge_again, promote, rollback
from orchestrator.registry.verdicts import summary
from orchestrator.registry.versions import TABLES_TAG, Registry
from tests.helpers.exported import new_run
from tests.helpers.versions import NAMES, photos, right_below, version
from trainables.errors import ConfigError
from trainables.inference.card import Card
from trainables.inference.outcomes import BASE_FILE, OUTCOMES_FILE, Outcomes, save_outcomes
from trainables.methods.gates import Gate
from trainables.methods.gates.latency import Latency
from trainables.methods.gates.overall import Overall
from trainables.methods.gates.provenance import Provenance

pytestmark = [
    # MLflow's own use of SQLAlchemy and pandas.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
]

ONE_POINT = (Overall(allowed_regression=1.0), Provenance())


def skilled(skill: float, names: Sequence[str] = NAMES, start: int = 0) -> Outcomes:
    return version(photos(names, test=400, start=start), right_below(skill, names))


class Desk:
    """A registered model whose versions have tables, or none."""

    def __init__(self, root: Path, model: str) -> None:
        self.uri = f"sqlite:///{root}/mlflow.db"
        self.registry, self.root, self.model = Registry(self.uri), root, model
        self.run_id = new_run(self.uri, root)
        self.count = 0

    def challenge(
        self,
        outcomes: Outcomes | None,
        *,
        base: Outcomes | None = None,
        gates: Sequence[Gate] = ONE_POINT,
        **metrics: float,
    ) -> PromotionRecord:
        self.count += 1
        folder = self.root / self.model / str(self.count)
        (folder / "classifier").mkdir(parents=True)
        (folder / "classifier" / "artifact.json").write_text(f"[{self.count}]")
        card = Card(
            class_names=NAMES, num_known=5, image_size=8, class_counts=(1,) * 5,
            evaluation_digest=str(self.count), source="table", protocol_hash="one",
        )  # fmt: skip
        (folder / "model.json").write_text(card.model_dump_json(), encoding="utf-8")
        for table, name in ((outcomes, OUTCOMES_FILE), (base, BASE_FILE)):
            if table is not None:
                save_outcomes(table, folder / name)
        return promote(
            {"test/accuracy/open": 0.5, **metrics},
            registry=self.registry,
            model=self.model,
            folder=folder,
            run_id=self.run_id,
            gates=gates,
        )

    @property
    def champion(self) -> str | None:
        return self.registry.alias(self.model, "champion")

    def best(self, version: str) -> dict[str, str]:
        found = self.registry.version_tags(self.model, version)[BEST_TAG]
        return dict(json.loads(found))


def overall(record: PromotionRecord) -> GateRecord:
    return next(gate for gate in record.gates if gate.name == "overall")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judged")


@pytest.fixture
def desk(root: Path, request: pytest.FixtureRequest) -> Desk:
    return Desk(root, request.node.name)


def test_a_table_comes_back_from_the_registry(desk: Desk) -> None:
    mine, base = skilled(0.9), skilled(0.8)
    desk.challenge(mine, base=base)
    for file, table in ((OUTCOMES_FILE, mine), (BASE_FILE, base)):
        found = desk.registry.outcomes(desk.model, "1", file)
        assert found is not None
        assert found.images.equals(table.images)
        assert found.classes == NAMES
    desk.challenge(mine)
    assert desk.registry.outcomes(desk.model, "2", BASE_FILE) is None


def test_versions_are_compared_image_by_image_though_their_metrics_say_otherwise(
    desk: Desk,
) -> None:
    assert desk.challenge(skilled(0.9), base=skilled(0.8), **{"test/accuracy/open": 0.1}).promoted
    worse = desk.challenge(skilled(0.7), **{"test/accuracy/open": 0.99})
    assert not worse.promoted
    assert [gate.name for gate in worse.gates if not gate.passed] == ["overall"]
    assert "version 1: test/accuracy/balanced 0.7000 against 0.9000" in overall(worse).reason
    tags = desk.registry.version_tags(desk.model, "2")
    assert tags["orchestrator.verdict"] == "refused by overall"
    better = desk.challenge(skilled(0.95), **{"test/accuracy/open": 0.1})
    assert better.promoted
    assert desk.registry.aliases(desk.model) == {
        "champion": "3",
        "previous": "1",
        "challenger": "2",
    }


def test_what_cannot_be_told_does_not_stand_in_the_way(desk: Desk) -> None:
    small = photos(test=12)
    desk.challenge(version(small, right_below(0.8)))
    record = desk.challenge(version(small, lambda p: right_below(0.75 + (p.label < "n") / 10)(p)))
    assert record.promoted
    assert (overall(record).verdict, overall(record).passed) == ("cannot tell", True)
    said = f"1 gate passed, 1 cannot tell (overall: needs about {overall(record).needs:,} test"
    assert summary(record).startswith(said)
    assert desk.registry.version_tags(desk.model, "2")["orchestrator.verdict"] == summary(record)


def test_the_first_version_is_refused_if_its_base_is_better(desk: Desk) -> None:
    record = desk.challenge(skilled(0.7), base=skilled(0.9))
    assert not record.promoted
    assert overall(record).reason.startswith("the base recipe: test/accuracy/balanced 0.7000")
    assert desk.champion is None
    again = judge_again("1", registry=desk.registry, model=desk.model, gates=ONE_POINT, force=True)
    assert again.promoted


def test_floors_are_computed_again_from_the_tables(desk: Desk) -> None:
    """Each version loses .8 points to the one before, less than is allowed."""
    skills = (0.900, 0.8925, 0.885, 0.8775)
    records = [desk.challenge(skilled(skill)) for skill in skills]
    assert [record.promoted for record in records[:2]] == [True, True]
    assert desk.best("2") == {"test/accuracy/open": "1"}
    last = overall(records[3])
    assert not records[3].promoted
    assert "; best champion so far (version 1): test/accuracy/balanced 0.8775" in last.reason
    assert desk.champion == "3"
    assert desk.best("3") == {"test/accuracy/open": "1"}


def test_a_floor_stays_where_a_version_could_not_be_compared_with_it(desk: Desk) -> None:
    """Version 2 is worse than 1; version 3 shares images with 2 alone, and 4 with 1 again."""

    def mixed(skill: float, *starts: int) -> Outcomes:
        data = [p for start in starts for p in photos(test=400, start=start)]
        return version(data, right_below(skill))

    assert desk.challenge(mixed(0.90, 0)).promoted
    assert desk.challenge(mixed(0.8925, 0, 1000)).promoted
    assert desk.best("2") == {"test/accuracy/open": "1"}
    third = desk.challenge(mixed(0.8925, 1000))
    assert overall(third).reason.endswith("best champion so far (version 1): no shared image")
    assert third.promoted
    assert desk.best("3") == {"test/accuracy/open": "1"}
    last = desk.challenge(mixed(0.8775, 0, 1000))
    assert not last.promoted
    assert "best champion so far (version 1): test/accuracy/balanced 0.8775" in overall(last).reason


def test_a_champion_that_shared_no_image_stays_the_floor_of_its_own_images(desk: Desk) -> None:
    """Photos of another place under the same name, and back again: version 1 still stands."""
    assert desk.challenge(skilled(0.90)).promoted
    other = desk.challenge(skilled(0.80, start=1000), base=skilled(0.70, start=1000))
    assert other.promoted
    assert other.gates[0].verdict == "not asked"
    assert desk.best("2") == {"test/accuracy/open": "1"}
    back = desk.challenge(skilled(0.70))
    assert not back.promoted
    assert "best champion so far (version 1): test/accuracy/balanced 0.7000 against 0.9000" in (
        overall(back).reason
    )
    assert desk.challenge(skilled(0.90)).promoted
    assert desk.best("4") == {}


def test_a_floor_whose_table_is_gone_is_not_asked_and_said(desk: Desk) -> None:
    for skill in (0.900, 0.8925):
        desk.challenge(skilled(skill))
    assert desk.best("2") == {"test/accuracy/open": "1"}
    desk.registry.set_version_tags(desk.model, "1", {TABLES_TAG: ""})
    passed = overall(desk.challenge(skilled(0.8925)))
    assert passed.verdict == "passed"
    assert passed.reason.startswith("version 2: test/accuracy/balanced")
    said = "best champion so far: not asked: version 1 has no outcome table"
    assert passed.reason.endswith(f"; {said}")
    refused = overall(desk.challenge(skilled(0.5)))
    assert refused.verdict == "refused"
    assert said not in refused.reason  # whatever else would have been asked


def test_a_better_version_raises_the_floor_and_a_rollback_takes_it_back(desk: Desk) -> None:
    for skill in (0.80, 0.90):
        desk.challenge(skilled(skill))
    assert desk.best("2") == {}
    assert not desk.challenge(skilled(0.85)).promoted
    rollback(desk.registry, desk.model)
    assert judge_again("3", registry=desk.registry, model=desk.model, gates=ONE_POINT).promoted


def test_no_shared_class_is_one_line(desk: Desk) -> None:
    desk.challenge(skilled(0.9, NAMES[:2]))
    record = desk.challenge(skilled(0.9, NAMES[2:]))
    assert not record.promoted
    refused = [gate for gate in record.gates if not gate.passed]
    assert [gate.name for gate in refused] == ["comparison"]
    assert f"with version 1 of '{desk.model}'" in refused[0].reason
    assert "--model NAME" in refused[0].reason


def test_a_champion_without_a_table_is_compared_by_metrics(desk: Desk) -> None:
    desk.challenge(None)
    record = desk.challenge(skilled(0.9), base=skilled(0.8))
    assert not record.promoted
    assert "was tested on another test set" in record.gates[0].reason  # as before


def test_a_damaged_table_is_one_line(desk: Desk) -> None:
    desk.challenge(skilled(0.9))
    for path in desk.root.glob(f"artifacts/**/{OUTCOMES_FILE}"):
        if desk.run_id in path.parts:
            path.write_bytes(b"no table")
    with pytest.raises(ConfigError, match=r"outcomes\.parquet is damaged"):
        desk.challenge(skilled(0.9))


def test_latency_is_measured_now_and_has_its_floor(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of the versions are given, because models of these folders cannot answer."""
    times = {"1": 1.0, "2": 1.08, "3": 1.16}

    def timed(loaded, version, other, found):
        mine, theirs = ({comparison.LATENCY: times[v or "1"]} for v in (version, other))
        both = None if other is None else {**found.champion, **theirs}
        return found._replace(challenger={**found.challenger, **mine}, champion=both)

    monkeypatch.setattr(comparison, "_timed", timed)
    gates = (Latency(allowed_regression=10.0, excused_regression=10.0, negligible=0.0),)
    records = [desk.challenge(skilled(0.9), gates=gates) for _ in times]
    assert [record.gates[-1].verdict for record in records] == ["not asked", "passed", "refused"]
    assert desk.best("2") == {comparison.LATENCY: "1"}
    assert "best champion so far (version 1): evaluate/latency/ms 1.1600" in (
        records[2].gates[-1].reason
    )
    assert "orchestrator.latency_ms" in desk.registry.version_tags(desk.model, "3")
