from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from factory import make_record

from orchestrator.records import GateRecord, SweepRecord
from orchestrator.report import write_report
from orchestrator.summary import ranked
from trainables.experiment import Experiment, load_experiment
from trainables.settings import flatten

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Reads a page: text, tables, addresses, and whether every element is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [], "unclosed elements"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                self.addresses.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
            if ("td" in self.open or "th" in self.open) and self.rows and self.rows[-1]:
                self.rows[-1][-1] += data.strip()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def record(folder: Path) -> SweepRecord:
    return make_record(folder)


@pytest.fixture(scope="module")
def page(record: SweepRecord, folder: Path) -> Page:
    path = write_report(record, folder)
    assert path == folder / "report.html"
    return Page(path)


def test_page_loads_nothing(page: Page) -> None:
    assert all(a.startswith(("#", "data:image/png;base64,")) for a in page.addresses)
    assert not re.search(r"https?://", page.source)
    assert "@import" not in page.source
    assert not re.search(r"url\((?!#)", page.source)
    assert "link" not in page.tags


def test_page_follows_light_dark_and_print(page: Page) -> None:
    assert "prefers-color-scheme: dark" in page.source
    assert "@media print" in page.source
    assert page.tags.count("svg") >= 10


def test_verdict_names_winner_interval_and_promotion(page: Page, record: SweepRecord) -> None:
    best = record.finalists[0]
    found = best.metrics["evaluate/update/accuracy"]
    number = next(t.number for t in record.trials if t.trial_id == best.trial_id)
    assert f"trial {number} won on validation" in page.text
    assert f"{found.mean:.4g} [{found.low:.4g}, {found.high:.4g}]" in page.text
    assert "promoted longtail version 3 is the champion" in page.text


def test_leaderboard_has_every_trial_and_every_parameter_that_varies(
    page: Page, record: SweepRecord
) -> None:
    head = next(row for row in page.rows if row and row[0] == "#")
    assert "update/accuracy" in head
    assert "classifyloss" in head
    assert "rebalancemethod.tau_norm.tau" in head
    assert "updatetraining.lr" not in head, "it is the same in all trials"
    start = page.rows.index(head) + 1
    rows = page.rows[start : start + len(record.trials)]
    assert [int(row[1]) for row in rows] == [t.number for t in ranked(record)]
    assert all(len(row) == len(head) for row in rows)


def test_reuse_adds_up(page: Page, record: SweepRecord) -> None:
    uses = [use for trial in record.trials for use in trial.stages]
    reused = sum(use.reused for use in uses)
    said = f"{len(uses)} stage results were asked for, {len(uses) - reused} computed, {reused}"
    assert said in page.text


def test_refusal_names_the_gates_that_failed(record: SweepRecord, tmp_path: Path) -> None:
    refused = record.model_copy(deep=True)
    assert refused.promotion is not None
    refused.promotion.promoted = False
    refused.promotion.gates[1] = GateRecord(name="few", passed=False, reason="0.2 against 0.6")
    refused.finalists[0].arrays = None
    text = Page(write_report(refused, tmp_path)).text
    assert "refused longtail version 3 was not promoted: few." in text
    assert "failed few 0.2 against 0.6" in text


def test_winner_can_be_run_again_from_the_file_beside_the_page(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    params = {"classify.training.lr": 0.25, "update.mode": "full", "seed": 3}
    record.experiment = Experiment(name="mine").model_dump(mode="json")
    record.finalists[0].params = dict(params)
    page = Page(write_report(record, tmp_path))
    command = f"python -m trainables {tmp_path}/winner.yaml --set data.world=test --set seed=0"
    assert command in page.text
    recipe = flatten(load_experiment(tmp_path / "winner.yaml"))
    assert {name: recipe[name] for name in params} == params
    assert recipe["name"] == "mine"


def test_recipe_of_another_schema_is_written_as_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = make_record(tmp_path)
    record.experiment = {"gone": 1}
    record.finalists[0].params = {"a.b": "x y", "a.c": True, "a.d": None}
    text = Page(write_report(record, tmp_path)).text
    assert "--set 'a.b=x y' --set a.c=true --set a.d=null --set data.world=test" in text
    assert "kept as base and changes" in caplog.text


@pytest.mark.parametrize("state", ["FAIL", "PRUNED", "RUNNING"])
def test_sweep_where_nothing_completed_has_a_page(tmp_path: Path, state: str) -> None:
    record = make_record(tmp_path, trials=6)
    record.finalists, record.promotion = [], None
    for trial in record.trials:
        trial.state, trial.error = state, "classify: <loss> is nan"  # type: ignore[assignment]
    text = Page(write_report(record, tmp_path)).text
    assert "No trial completed: classify: <loss> is nan" in text


def test_sweep_without_trials_has_a_page(tmp_path: Path) -> None:
    record = make_record(tmp_path, trials=0)
    record.promotion, record.objectives, record.run_id = None, [], None
    page = Page(write_report(record, tmp_path))
    assert "No trial completed" in page.text
    assert not (tmp_path / "winner.yaml").exists()


def test_unfinished_sweep_names_the_leader(tmp_path: Path) -> None:
    record = make_record(tmp_path, objectives=1)
    record.finalists, record.promotion = [], None
    text = Page(write_report(record, tmp_path)).text
    assert f"trial {ranked(record)[0].number} leads on validation" in text
    assert "Pareto" not in text


def test_odd_values_are_shown_not_fatal(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    record.name = '<script>alert("x")</script>'
    record.trials[0].metrics["evaluate/update/accuracy"] = math.nan
    record.trials[1].metrics["evaluate/auroc"] = math.inf
    record.trials[2].metrics["evaluate/accuracy/few"] = math.nan
    record.finalists[0].arrays = "not/there"
    page = Page(write_report(record, tmp_path))
    assert page.tags.count("script") == 1
    assert record.name in page.text
