from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.records import FailureRecord, GateRecord, Interval, SweepRecord
from orchestrator.report.page import write_report
from orchestrator.report.summary import ranked
from orchestrator.store.protocol_files import save_protocol
from tests.helpers.factory import make_record
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
    computed = len(uses) - reused
    said = f"{len(uses)} stage results, of which {computed} were computed and {reused} reused."
    assert said in page.text


def test_refusal_names_the_gates_that_failed(record: SweepRecord, tmp_path: Path) -> None:
    refused = record.model_copy(deep=True)
    assert refused.promotion is not None
    refused.promotion.promoted = False
    refused.promotion.gates[1] = GateRecord(name="few", passed=False, reason="0.2 against 0.6")
    refused.finalists[0].arrays = None
    text = Page(write_report(refused, tmp_path)).text
    assert "refused longtail version 3 was not promoted: few." in text
    assert "refused few 0.2 against 0.6" in text


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("nothing", ""),
        ("", ""),  # a record of an earlier version
        ("timm:resnet18.a1_in1k", "classes that occur there are not new to the trunk"),
        ("not known; the recipe says: nothing", "figures on new classes are not clean"),
    ],
)
def test_what_the_winners_trunk_was_pretrained_on_is_named(
    record: SweepRecord, tmp_path: Path, origin: str, said: str
) -> None:
    copied = record.model_copy(deep=True)
    for finalist in copied.finalists:
        finalist.pretrained_on, finalist.met_classes = origin, ["tench", "<cat>"]
    text = Page(write_report(copied, tmp_path)).text
    assert ("trunk:" in text) == bool(said)
    assert said in text
    assert not said or origin in text
    assert ("among them are 2: tench, <cat>" in text) == bool(said)


def test_classes_have_names_and_the_bands_of_the_recipe(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    record.experiment["evaluate"] = {"many_above": 60, "few_below": 10, "bins": 5}
    record.data = {"known_class_names": list("abcdefg"), "novel_class_names": ["not", "these"]}
    summary = {"world": "test", "known_class_names": list("abcdefg"), "novel_class_names": ["x<y"]}
    without = Page(write_report(record, tmp_path))
    save_protocol(tmp_path, summary, {})
    page = Page(write_report(record, tmp_path))
    classes = page.rows.index(["class", "band", "training images", "accuracy", "after the update"])
    rows = {row[0]: row for row in page.rows[classes + 1 : classes + 11]}
    assert list(rows) == [*"abcdefg", "x<y", "8", "9"]
    assert [row[1] for row in rows.values()] == (
        ["many"] * 2 + ["medium"] * 4 + ["few"] + ["new"] * 3
    )
    assert rows["a"][:3] == ["a", "many", "130"]
    assert "(seed 0)" in page.text
    assert ["7", "new"] in [row[:2] for row in without.rows], "new in the search, not in the test"


def test_recipes_show_the_most_important_settings_and_fold_the_others(
    page: Page, record: SweepRecord, tmp_path: Path
) -> None:
    assert page.tags.count("details") == 0, "few enough to show"
    many = record.model_copy(deep=True)
    for trial in many.trials:
        trial.params = {f"classify.x{i}": i * trial.number for i in range(1, 10)}
    for finalist in many.finalists:
        finalist.params = {f"classify.x{i}": i for i in range(1, 10)}
    found = Page(write_report(many, tmp_path))
    assert found.tags.count("details") == 1 + len(many.finalists)
    assert "1 more settings" in found.text, "the winner's, above"
    assert "3 more settings" in found.text


def test_a_setting_that_is_none_says_so(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    for trial in record.trials:
        trial.params = {"update.exemplars_per_class": trial.number or None}
    record.finalists[0].params = {"update.exemplars_per_class": None}
    page = Page(write_report(record, tmp_path))
    assert "update.exemplars_per_class none" in " ".join(page.text.split())


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


def test_paths_are_last_names_and_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = make_record(tmp_path)
    weights = "pretrain.method.pretrained.checkpoint"
    for number, trial in enumerate(record.trials):
        trial.params = {**trial.params, weights: f"{tmp_path}/{number % 2}.safetensors"}
    record.content = {weights: "ab" * 32}
    monkeypatch.chdir(tmp_path)
    page = Page(write_report(record, tmp_path / "runs"))
    assert "0.safetensors" in page.text
    assert f"content of {weights} {'ab' * 8}" in page.text
    assert "python -m trainables runs/winner.yaml" in page.text
    assert str(tmp_path) not in page.source


def test_the_command_sets_device_and_threads_of_the_sweep(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    record.experiment = Experiment().model_dump(mode="json")
    record.finalists[0].params = {}
    plain = Page(write_report(record, tmp_path)).text
    assert "--threads" not in plain  # a record of before does not say them
    record.environment |= {"device": "cuda", "threads": "4"}
    text = Page(write_report(record, tmp_path)).text
    assert "--set seed=0 --device cuda --threads 4" in text
    assert "because figures depend on them" in text


def test_recipe_of_another_schema_is_written_as_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = make_record(tmp_path)
    record.experiment = {"gone": 1}
    record.finalists[0].params = {"a.b": "x y", "a.c": True, "a.d": None}
    text = Page(write_report(record, tmp_path)).text
    assert "--set 'a.b=x y' --set a.c=true --set a.d=null --set data.world=test" in text
    assert "winner.yaml holds the base recipe" in caplog.text


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


def test_the_model_that_answers_is_named_with_its_right_answers(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    best, other, *_ = record.finalists
    best.served, best.serving = "updated", "the update gives significantly more"
    best.metrics["test/accuracy/open"] = Interval(mean=0.875, low=0.8, high=0.9, values=[0.8, 0.95])
    other.served = "first"
    page = Page(write_report(record, tmp_path))
    assert "Its model after the update answers." in page.text
    assert "The update gives significantly more." in page.text
    head = next(row for row in page.rows if "model that answers" in row)
    column, start = head.index("model that answers"), page.rows.index(head) + 1
    first, second = page.rows[start : start + 4 : 2]  # each is followed by its recipe
    assert (first[column], first[column + 1]) == ("updated", "0.875[0.8000, 0.9000]")
    assert (second[column], second[column + 1]) == ("before the update", "")


def test_what_failed_after_the_search_is_listed(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    assert "What failed" not in write_report(record, tmp_path).read_text(encoding="utf-8")
    error = "FloatingPointError: loss is nan & <worse>"
    record.failures = [FailureRecord(step="finalist", trial_id="t0003", seed=2, error=error)]
    page = write_report(record, tmp_path).read_text(encoding="utf-8")
    assert "finalist t0003, seed 2: FloatingPointError: loss is nan &amp; &lt;worse&gt;" in page
