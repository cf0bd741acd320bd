"""Tables of published results: what they hold, what a real run gives, and its page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.execution import progress
from orchestrator.execution.execute import RecipeResult
from orchestrator.tables import reproduce as running
from orchestrator.tables import schema as tables
from orchestrator.tables.reproduce import reproduce
from orchestrator.tables.results_page import measured, render
from orchestrator.tables.schema import Table, Wanted, load_table, recipes
from orchestrator.tables.table_record import CellRecord, TableRecord
from tests.helpers import ROOT
from trainables.errors import ConfigError
from trainables.experiment import load_experiment
from trainables.pipeline import plan
from trainables.settings import build

SMALL: dict[str, Any] = {
    "name": "small",
    "title": "Small",
    "experiment": "digits.yaml",
    "factors": {"10": {"data.profile.imbalance_factor": 10.0}, "5": {}},
    "rows": [
        {"name": "CE", "cells": {"10": {"published": [50.0, 60.0], "source": "paper"}}},
        {"name": "LA", "settings": {"rebalance.method": "logit_adjustment"}},
    ],
    "seeds": [0, 1],
    "order": ["CE < LA"],
}


def small(**changes: Any) -> Table:
    return build(Table, SMALL | changes)


# --- the tables that come with the project --------------------------------------------------------


@pytest.mark.parametrize("name", tables.names())
def test_every_row_of_a_table_is_a_recipe_that_can_run(name: str) -> None:
    table, folder = load_table(name)
    found = recipes(table, folder, (), Wanted(seeds=(0,)))
    assert len(found) == len(table.rows) * len(table.factors)
    for run in found:
        plan(run.experiment)


@pytest.mark.parametrize("name", ["cifar10_lt", "cifar100_lt"])
def test_published_tables_follow_the_published_protocol(name: str) -> None:
    table, folder = load_table(name)
    assert table.protocol == "published"
    for run in recipes(table, folder, (), Wanted(seeds=(0,))):
        data, training = run.experiment.data, run.experiment.classify.training
        assert (data.novel_classes, data.validation_per_class, data.world) == (0, 0, "test")
        assert data.seed == 0  # the published subset
        assert training.epochs == 200
        assert run.experiment.data.profile.model_dump()["imbalance_factor"] == float(run.factor)
    for row in table.rows:
        for cell in row.cells.values():
            assert cell.published
            assert cell.source


def test_rows_behind_the_training_share_the_trunk_of_plain_cross_entropy() -> None:
    table, folder = load_table("cifar10_lt")
    found = recipes(table, folder, (), Wanted(factors=("100",), seeds=(0,)))
    trunk = {run.row: run.experiment.classify.digest() for run in found}
    behind = ["post-hoc logit adjustment", "cRT", "LWS", "tau-norm"]
    assert {trunk[name] for name in behind} == {trunk["CE"]}
    assert len(set(trunk.values())) == 9


@pytest.mark.parametrize(
    ("file", "table_name", "row"),
    [
        ("cifar10_lt_ce", "cifar10_lt", "CE"),
        ("cifar100_lt_ce", "cifar100_lt", "CE"),
        ("cifar10_lt_ldam_drw", "cifar10_lt", "LDAM-DRW"),
        ("cifar100_lt_ldam_drw", "cifar100_lt", "LDAM-DRW"),
        ("cifar10_lt_mislas", "cifar10_lt", "MiSLAS"),
        ("cifar100_lt_mislas", "cifar100_lt", "MiSLAS"),
        ("cifar10_lt_tde", "cifar10_lt", "TDE"),
        ("cifar100_lt_tde", "cifar100_lt", "TDE"),
    ],
)
def test_a_recipe_file_of_a_paper_is_its_row(file: str, table_name: str, row: str) -> None:
    table, folder = load_table(table_name)
    wanted = Wanted(rows=(row,), factors=("100",), seeds=(0,))
    (run,) = recipes(table, folder, (), wanted)
    alone = load_experiment(ROOT / f"experiments/{file}.yaml")
    assert alone.model_copy(update={"name": run.experiment.name}) == run.experiment


# --- what a table may hold ------------------------------------------------------------------------


def test_a_part_of_a_table_is_run_seed_by_seed() -> None:
    found = recipes(small(), ROOT / "experiments", (), Wanted())
    assert [(r.seed, r.factor, r.row) for r in found][:5] == [
        (0, "10", "CE"),
        (0, "10", "LA"),
        (0, "5", "CE"),
        (0, "5", "LA"),
        (1, "10", "CE"),
    ]
    part = recipes(small(), ROOT / "experiments", (), Wanted(("LA",), ("5",), (7,)))
    assert [(r.seed, r.factor, r.row) for r in part] == [(7, "5", "LA")]


def test_a_row_may_start_from_a_recipe_of_its_own() -> None:
    row = {"name": "long", "experiment": "cifar10_lt_short.yaml", "settings": {"seed": 3}}
    table = small(rows=[{"name": "CE"}, row], order=[], factors={"1": {}})
    found = recipes(table, ROOT / "experiments", (), Wanted(seeds=(0,)))
    assert [run.experiment.name for run in found] == ["digits", "cifar10_lt_short"]
    assert [run.experiment.classify.training.epochs for run in found] == [15, 30]
    wrong = small(rows=[{**row, "experiment": "cifar_lt.yaml"}], order=[])
    with pytest.raises(ConfigError, match="cifar_lt"):
        recipes(wrong, ROOT / "experiments", (), Wanted())


@pytest.mark.parametrize("name", ["cifar10_lt_families", "cifar100_lt_families"])
def test_a_family_runs_by_the_recipe_of_its_file_on_the_published_images(name: str) -> None:
    table, folder = load_table(name)
    for run in recipes(table, folder, (), Wanted(factors=("100",), seeds=(0,))):
        file = table.row(run.row).experiment or table.experiment
        assert run.experiment == load_experiment(folder / file)
        assert run.experiment.data.seed == 0
    for factor in ("50", "10"):
        for run in recipes(table, folder, (), Wanted(factors=(factor,), seeds=(0,))):
            factor_of = run.experiment.data.profile.model_dump()["imbalance_factor"]
            assert factor_of == float(factor)


def test_a_change_on_the_command_line_wins_over_row_and_cell() -> None:
    row = {
        "name": "LA",
        "settings": {"rebalance.method": {"logit_adjustment": {"tau": 0.5}}},
        "cells": {"5": {"settings": {"rebalance.method": {"logit_adjustment": {"tau": 2.0}}}}},
    }
    table = small(rows=[row], order=[])

    def tau(*sets: str) -> list[float]:
        found = recipes(table, ROOT / "experiments", sets, Wanted(seeds=(0,)))
        return [run.experiment.rebalance.method.model_dump()["tau"] for run in found]

    assert tau() == [0.5, 2.0]
    assert tau("rebalance.method.logit_adjustment.tau=1.5") == [1.5, 1.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": ["CE > LA"]}, "expected 'A < B'"),
        ({"order": ["CE < LDAM"]}, "unknown row 'LDAM'"),
        ({"rows": [{"name": "CE"}, {"name": "CE"}], "order": []}, "duplicate names CE"),
        ({"rows": [{"name": "CE", "cells": {"50": {}}}], "order": []}, "the unknown factor '50'"),
        ({"rowz": []}, "rowz"),
    ],
)
def test_a_wrong_table_is_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        small(**change)
    assert "\n" not in str(caught.value)


def test_a_wrong_setting_names_its_row() -> None:
    table = small(rows=[{"name": "CE", "settings": {"clasify.loss": "ldam"}}], order=[])
    with pytest.raises(ConfigError, match=r"row 'CE': .*did you mean 'classify'"):
        recipes(table, ROOT / "experiments", (), Wanted())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digit_lt"], "unknown table 'digit_lt'.*did you mean 'digits_lt'"),
        (["digits_lt", "--rows", "cRTT"], "unknown row 'cRTT'.*did you mean 'cRT'"),
        (["digits_lt", "--factors", "7"], "unknown factor '7'"),
        (["digits_lt", "--seeds", "one"], "--seeds: allowed: whole numbers"),
    ],
)
def test_a_wrong_word_on_the_command_line_is_one_clear_line(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["reproduce", *words])
    assert isinstance(done.exception, ConfigError)
    assert re.search(message, str(done.exception))


def test_without_a_name_the_tables_are_listed() -> None:
    done = CliRunner().invoke(app, ["reproduce"])
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.output.splitlines()] == tables.names()


# --- a real run -----------------------------------------------------------------------------------


def test_a_table_runs_shares_its_trunk_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    words = ["reproduce", "digits_lt", "--seeds", "0", "--storage", str(tmp_path / "runs")]
    words += ["--set", "classify.training.epochs=1", "--page", str(tmp_path / "page.md")]
    first = CliRunner().invoke(app, [*words, "--rows", "CE,cRT"])
    assert first.exit_code == 0, first.output
    assert "CE, 20, seed 0: classify, epoch 1 of 1, loss " in first.stderr
    lines = first.stdout.splitlines()
    assert "1/2  CE  20  seed 0" in lines[0]
    assert "classify" in lines[0]
    assert "(computed rebalance, score" in lines[1]  # cRT trains no trunk of its own

    again = CliRunner().invoke(app, words)
    stored = [line for line in again.stdout.splitlines() if "all stored before" in line]
    assert [line.split()[1] for line in stored] == ["CE", "cRT"]
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page == (tmp_path / "runs/tables/digits_lt/results.md").read_text(encoding="utf-8")
    assert "| classify | 4 | 1 |" in page
    record = TableRecord.model_validate_json(
        (tmp_path / "runs/tables/digits_lt/results.json").read_text(encoding="utf-8")
    )
    assert [cell.row for cell in record.cells] == [r.name for r in load_table("digits_lt")[0].rows]
    assert {cell.commit for cell in record.cells} == {record.machine["commit"]}
    shown = measured(record, "evaluate/accuracy/balanced", "cRT", "20")
    assert shown is not None
    assert f"| cRT | 1 | {shown.mean:.2f} |" in page
    assert f"commit {record.machine['commit']}," in page
    assert "CPU (" in record.machine["device"]


def test_a_training_that_fails_is_a_result_and_the_table_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(experiment: Any, *_: Any, **__: Any) -> Any:
        raise ArithmeticError(f"loss is nan\nat {experiment.rebalance.method.name}")

    monkeypatch.setattr(running, "execute", fail)
    said: list[str] = []
    found = recipes(small(), ROOT / "experiments", (), Wanted(seeds=(0,), factors=("5",)))
    record = reproduce(small(), found, str(tmp_path), say=said.append)
    assert [cell.error for cell in record.cells] == [
        "loss is nan at none",
        "loss is nan at logit_adjustment",
    ]
    assert "FAILED" in said[1]
    page = (tmp_path / "tables/small/results.md").read_text(encoding="utf-8")
    assert "- LA, 5, seed 0: loss is nan at logit_adjustment" in page


def test_ctrl_c_keeps_what_was_run_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(experiment: Any, *_: Any, **__: Any) -> RecipeResult:
        if experiment.rebalance.method.name != "none":
            raise KeyboardInterrupt
        return RecipeResult({}, {"evaluate/accuracy/balanced": 0.5}, [], 0.0)

    monkeypatch.setattr(running, "execute", measure)
    words = ["reproduce", "digits_lt", "--seeds", "0", "--storage", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 130
    assert "the same command goes on" in done.output
    stored = (tmp_path / "tables/digits_lt/results.json").read_text(encoding="utf-8")
    assert [c.row for c in TableRecord.model_validate_json(stored).cells] == ["CE"]


def test_rows_that_are_not_run_again_stay_on_the_page_unless_their_recipe_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(experiment: Any, *_: Any, **__: Any) -> RecipeResult:
        tau = experiment.rebalance.method.model_dump().get("tau", 0.25)
        return RecipeResult({}, {"evaluate/accuracy": tau / 2}, [], 0.0)

    monkeypatch.setattr(running, "execute", measure)

    def ran(table: Table, *rows: str) -> list[tuple[str, float]]:
        folder = ROOT / "experiments"
        wanted = Wanted(rows, ("5",), (0,))
        whole = recipes(table, folder, (), Wanted(seeds=(0,)))
        found = recipes(table, folder, (), wanted)
        record = reproduce(table, found, str(tmp_path), whole=whole, say=lambda line: None)
        return [(cell.row, cell.metrics["evaluate/accuracy"]) for cell in record.cells]

    assert ran(small(), "LA") == [("LA", 0.5)]
    assert ran(small(), "CE") == [("CE", 0.125), ("LA", 0.5)]
    changed = [{"name": "CE"}, {"name": "LA", "settings": {"rebalance.method": "tau_norm"}}]
    assert ran(small(rows=changed), "CE") == [("CE", 0.125)]


# --- the page -------------------------------------------------------------------------------------


def page_of(table: Table, values: dict[str, list[float]]) -> str:
    cells = [
        CellRecord(row=row, factor="10", seed=seed, metrics={table.metric: value / 100})
        for row, measured_values in values.items()
        for seed, value in enumerate(measured_values)
    ]
    return render(table, TableRecord(table=table.name, machine={}, cells=cells))


@pytest.mark.parametrize(
    ("mean", "shown"),
    [
        (48.5, "-1.50"),  # within the tolerance of the lower figure
        (48.4, "**-1.60 ⚑**"),
        (54.0, "+4.00"),  # between two published figures
        (61.5, "+1.50"),
        (61.6, "**+1.60 ⚑**"),
    ],
)
def test_a_difference_above_the_tolerance_is_flagged(mean: float, shown: str) -> None:
    page = page_of(small(), {"CE": [mean]})
    assert f"| CE | 1 | {mean:.2f} | – | 50.00 / 60.00 | {shown} | paper |" in page
    verdict = (
        "0 of 1 cells agree with the published values; ⚑ CE at 10." if "⚑" in shown else "1 of 1"
    )
    assert verdict in page


@pytest.mark.parametrize(
    ("values", "flagged"),
    [
        ([46.0, 47.0, 48.0], False),  # 47 ± 2.48: up to 49.48, and 1.5 more is beyond 50
        ([46.9, 47.0, 47.1], True),  # 47 ± 0.25
        ([48.4, 48.5, 48.6], False),
        ([62.9, 63.0, 63.1], True),
        ([61.0, 63.0, 65.0], False),
    ],
)
def test_a_published_figure_outside_of_the_interval_is_flagged(
    values: list[float], flagged: bool
) -> None:
    assert ("| **" in page_of(small(), {"CE": values})) == flagged


def test_a_shortened_table_gives_no_verdict() -> None:
    page = page_of(small(protocol="shortened"), {"CE": [20.0]})
    assert "| -30.00 |" in page
    assert "⚑" not in page
    assert "agree with the published" not in page
    assert "differ from the published setting" in page


def test_a_row_that_departs_from_the_published_setting_is_not_judged() -> None:
    departing = {**SMALL["rows"][0], "departs": "half the epochs"}
    page = page_of(small(rows=[departing], order=[]), {"CE": [20.0]})
    assert "| -30.00 | paper; departs: half the epochs |" in page
    assert "agree with the published" not in page


def test_the_page_shows_the_interval_over_seeds_beside_the_published_figures() -> None:
    page = page_of(small(), {"CE": [49.0, 50.0, 51.0]})
    # 4.303 / sqrt 3 = 2.48
    assert "| CE | 3 | 50.00 | 47.52 to 52.48 | 50.00 / 60.00 | +0.00 | paper |" in page


def test_the_expected_order_is_judged_where_both_rows_ran() -> None:
    held = page_of(small(), {"CE": [50.0], "LA": [51.0]})
    assert "CE < LA holds (50.00, 51.00)" in held
    assert "1 of 1 expected orders hold for the means" in held
    assert "**does not hold**" in page_of(small(), {"CE": [52.0], "LA": [51.0]})
    assert "## Expected order" not in page_of(small(), {"CE": [52.0]})


def test_the_expected_order_is_counted_by_seed() -> None:
    page = page_of(small(), {"CE": [50.0, 50.0, 50.0], "LA": [49.0, 51.0, 53.0]})
    assert "CE < LA holds (50.00, 51.00; in 2 of 3 seeds)" in page


def test_a_row_that_did_not_run_is_left_open() -> None:
    page = page_of(small(), {"LA": [50.0]})
    assert "| CE | 0 | – | – | 50.00 / 60.00 | – | paper |" in page
    assert "| LA | 1 | 50.00 | – | – | – |  |" in page


def test_the_page_says_which_code_ran_and_where() -> None:
    cells = [
        CellRecord(row="CE", factor="10", seed=0, commit=commit, metrics={"evaluate/accuracy": 0.5})
        for commit in ("aaa+changes", "bbb")
    ]
    machine = {"commit": "aaa+changes", "device": "CPU; GPU"}
    page = render(small(), TableRecord(table="small", machine=machine, cells=cells))
    assert "commit aaa+changes, device CPU; GPU; some cells were run at commit bbb." in page


def test_results_are_written_whole(tmp_path: Path) -> None:
    running._write(tmp_path / "a/results.json", json.dumps({"a": 1}))
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["results.json"]
