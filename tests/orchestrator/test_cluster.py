"""A sweep waits for the machines that a cluster's launcher is still starting."""

from pathlib import Path

import yaml

from orchestrator.cluster import await_count, machines_of

ROOT = Path(__file__).parents[2]


def test_machines_are_the_head_and_the_least_number_of_each_kind(tmp_path: Path) -> None:
    file = tmp_path / "bootstrap.yaml"
    kinds = {"head": {"min_workers": 0}, "cpu": {"min_workers": 2, "max_workers": 5}, "gpu": {}}
    file.write_text(yaml.safe_dump({"cluster_name": "c", "available_node_types": kinds}))
    assert machines_of(file) == 3


def test_a_machine_that_no_launcher_prepared_waits_for_nobody(tmp_path: Path) -> None:
    assert machines_of(tmp_path / "absent.yaml") == 0
    said: list[str] = []
    await_count(lambda: 1, 0, said.append)
    assert said == []


def test_it_waits_until_all_have_joined_and_says_so_once() -> None:
    joined = iter([1, 1, 2, 3, 99])
    said: list[str] = []
    await_count(lambda: next(joined), 3, said.append, poll_seconds=0.01)
    assert next(joined) == 99  # not asked again
    assert said == ["1 of 3 machines have joined; waiting for the others"]


def test_a_machine_that_never_joins_is_done_without() -> None:
    said: list[str] = []
    await_count(lambda: 2, 3, said.append, seconds=0.05, poll_seconds=0.01)
    assert said[-1] == "2 of 3 machines joined; going on with them"


def test_what_is_sent_to_the_machines_is_all_that_a_sweep_imports() -> None:
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    sent = {Path(source).parts[0] for source in cluster["file_mounts"].values()}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages | {"experiments", "Makefile", "pyproject.toml", "requirements.lock"} <= sent
