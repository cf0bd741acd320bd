"""Runs of a table in a good order, and as Ray tasks: the same numbers, record and page."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.tables.reproduce import reproduce
from orchestrator.tables.schema import Recipe, Table, Wanted, load_table, recipes
from orchestrator.tables.table_order import StartOrder, backbone_digest
from orchestrator.tables.table_record import TableRecord
from orchestrator.tables.table_tasks import ClusterRunner, _result, share
from trainables.errors import ConfigError

SHORT = ("classify.training.epochs=1",)


def runs_of(name: str, wanted: Wanted | None = None, sets: tuple[str, ...] = ()) -> list[Recipe]:
    table, folder = load_table(name)
    return recipes(table, folder, sets, wanted or Wanted())


# --- order ----------------------------------------------------------------------------------------


def started(runs: list[Recipe], workers: int, *, seed: int = 0) -> list[int]:
    """Play a cluster on which any of the running ones may end next; return the order of starts."""
    order, draws = StartOrder(runs), random.Random(seed)
    going: list[int] = []
    begun: list[int] = []
    trained: set[str] = set()
    while True:
        while len(going) < workers and (position := order.next()) is not None:
            trunk = backbone_digest(runs[position])
            assert trunk in trained or trunk not in {backbone_digest(runs[n]) for n in going}
            going.append(position)
            begun.append(position)
        if not going:
            return begun
        ended = going.pop(draws.randrange(len(going)))
        trained.add(backbone_digest(runs[ended]))
        order.finished(ended)


def test_runs_have_a_trunk_in_common_when_only_what_follows_differs() -> None:
    runs = runs_of("cifar10_lt", Wanted(factors=("100", "50"), seeds=(0, 1)))
    behind = {"CE", "post-hoc logit adjustment", "cRT", "LWS", "tau-norm"}
    trunks = {(r.row, r.factor, r.seed): backbone_digest(r) for r in runs}
    for factor in ("100", "50"):
        for seed in (0, 1):
            assert len({trunks[name, factor, seed] for name in behind}) == 1
    assert len(set(trunks.values())) == 9 * 2 * 2


def test_one_worker_fills_the_rows_of_a_trunk_before_it_trains_the_next() -> None:
    runs = runs_of("cifar10_lt", Wanted(factors=("100",), seeds=(0, 1)))
    rows = [(runs[n].seed, runs[n].row) for n in started(runs, 1)]
    assert [row for seed, row in rows[:6]] == [
        "CE",
        "post-hoc logit adjustment",
        "cRT",
        "LWS",
        "tau-norm",
        "CS_CE",
    ]
    assert [seed for seed, _ in rows] == [0] * 13 + [1] * 13


def test_several_workers_start_with_as_many_distinct_trunks() -> None:
    runs = runs_of("cifar10_lt", Wanted(factors=("100",), seeds=(0,)))
    first = started(runs, 4)[:4]
    assert [runs[n].row for n in first] == ["CE", "CS_CE", "CE-DRW", "LDAM-DRW"]


@pytest.mark.parametrize("workers", [1, 2, 3, 20])
@pytest.mark.parametrize("seed", range(5))
def test_every_run_starts_once_and_no_trunk_twice_at_a_time(workers: int, seed: int) -> None:
    runs = runs_of("cifar10_lt", Wanted(seeds=(0, 1)))
    assert sorted(started(runs, workers, seed=seed)) == list(range(len(runs)))


def test_after_a_failed_training_one_run_tries_the_trunk_again() -> None:
    order = StartOrder(runs_of("digits_lt", Wanted(seeds=(0,))))
    assert (order.next(), order.next()) == (0, None)
    order.finished(0, trained=False)
    assert (order.next(), order.next()) == (1, None)
    order.finished(1)
    assert (order.next(), order.next(), order.next()) == (2, 3, None)


# --- shares ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at_once", "resources", "expected"),
    [
        (None, {"CPU": 4.0}, (4, 0.0)),
        (3, {"CPU": 4.0}, (3, 0.0)),
        (None, {"CPU": 16.0, "GPU": 2.0}, (2, 1.0)),
        (4, {"CPU": 16.0, "GPU": 2.0}, (4, 0.5)),
        (1, {"CPU": 16.0, "GPU": 2.0}, (1, 1.0)),
    ],
)
def test_gpus_are_shared_out_evenly(
    at_once: int | None, resources: dict[str, float], expected: tuple[int, float]
) -> None:
    assert share(at_once, resources) == expected


def test_more_runs_than_cpus_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 2 fit"):
        share(5, {"CPU": 2.0})


# --- on a cluster ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def run(table: Table, runs: list[Recipe], folder: Path, **more: object) -> TableRecord:
    said: list[str] = []
    record = reproduce(table, runs, str(folder), say=said.append, **more)  # type: ignore[arg-type]
    assert len(said) == len(runs)
    return record


@pytest.mark.usefixtures("cluster")
def test_a_cluster_gives_the_numbers_of_one_process_and_trains_each_trunk_once(
    tmp_path: Path,
) -> None:
    table, _ = load_table("digits_lt")
    runs = runs_of("digits_lt", sets=SHORT)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a task has it: sums in another order differ in the last digit
    try:
        alone = run(table, runs, tmp_path / "alone")
    finally:
        torch.set_num_threads(threads)
    runner = ClusterRunner(2, None, print)
    together = run(table, runs, tmp_path / "together", runner=runner)

    def measured(record: TableRecord) -> dict[tuple[str, int], dict[str, float]]:
        return {(c.row, c.seed): c.metrics for c in record.cells}

    assert len(together.cells) == len(runs) == 8
    assert measured(together) == measured(alone)
    uses = [use for cell in together.cells for use in cell.stages if use.stage == "classify"]
    assert len(uses) == 8
    assert sum(not use.reused for use in uses) == len({use.key for use in uses}) == 2
    folder = tmp_path / "together/tables/digits_lt"
    stored = TableRecord.model_validate_json((folder / "results.json").read_text("utf-8"))
    assert stored == together
    assert "| classify | 8 | 2 |" in (folder / "results.md").read_text("utf-8")

    again = run(table, runs, tmp_path / "together", runner=runner)
    assert measured(again) == measured(alone)
    assert all(use.reused for cell in again.cells for use in cell.stages)


@pytest.mark.usefixtures("cluster")
def test_a_training_that_diverges_on_a_cluster_is_a_failure_of_its_row(tmp_path: Path) -> None:
    table, _ = load_table("digits_lt")
    one = Wanted(rows=("CE",), seeds=(0,))
    runs = runs_of("digits_lt", one, (*SHORT, "classify.training.lr=1e30"))
    record = run(table, runs, tmp_path, runner=ClusterRunner(2, None, print))
    (cell,) = record.cells
    assert cell.error is not None
    assert "loss is" in cell.error
    assert cell.metrics == {}


@pytest.mark.usefixtures("cluster")
def test_what_a_user_got_wrong_is_one_clear_line_on_a_cluster_too(tmp_path: Path) -> None:
    table, _ = load_table("digits_lt")
    missing = f"data.source=folder:{tmp_path / 'nothing'}"
    runs = runs_of("digits_lt", Wanted(seeds=(0,)), (*SHORT, missing))
    with pytest.raises(ConfigError) as caught:
        run(table, runs, tmp_path, runner=ClusterRunner(2, None, print))
    assert "nothing" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("cluster")
def test_a_process_that_dies_is_a_failure_of_its_row() -> None:
    dying = ray.remote(num_cpus=1, max_retries=0)(lambda: os._exit(1))
    cell = _result(dying.remote(), runs_of("digits_lt", Wanted(seeds=(0,)))[0])
    assert (cell.row, cell.seed, cell.metrics) == ("CE", 0, {})
    assert cell.error


@pytest.mark.usefixtures("cluster")
def test_the_command_runs_a_table_on_a_cluster(tmp_path: Path) -> None:
    words = ["reproduce", "digits_lt", "--seeds", "0", "--rows", "CE,cRT", "--concurrency", "2"]
    words += ["--storage", str(tmp_path), "--set", *SHORT]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    first, second, page = done.output.splitlines()
    assert first.startswith("1/2  CE  20  seed 0")
    assert "(computed rebalance, score" in second
    assert Path(page).is_file()


@pytest.mark.usefixtures("cluster")
def test_too_many_at_once_is_one_clear_line(tmp_path: Path) -> None:
    words = ["reproduce", "digits_lt", "--concurrency", "64", "--storage", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigError)
    assert "the cluster has 2" in str(done.exception)
