"""The worked examples of the documents, as real files: methods, a gate, a space, a table."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml

import search_spaces
from orchestrator.tables import schema
from search_spaces.pick import FromTrial, Pick, Start
from tests.helpers import ROOT
from tests.helpers.pages import DOCS, OWN_SPACE, blocks, commands, section, text_of
from trainables.experiment import load_experiment
from trainables.settings import build


def example_files() -> dict[str, str]:
    """Return the whole files that pages show: a path in the first line, then the code."""
    pages = (text_of("extend"), text_of("search"))
    found = [code for text in pages for code in blocks(text, "python") if code.startswith("# ")]
    return {code.splitlines()[0].removeprefix("# "): code for code in found}


EXAMPLES = example_files()
METHODS = [path for path in EXAMPLES if path.startswith("trainables/")]


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the examples of the pages as real files."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("trainables", "experiments", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for path in METHODS:
        (copy / path).write_text(EXAMPLES[path], encoding="utf-8")
    return copy


def run_in(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pages_have_a_method_a_gate_and_a_space() -> None:
    assert [path.split("/")[2:3] for path in EXAMPLES] == [["losses"], ["gates"], []]


def test_method_of_the_page_trains_from_its_file_alone(extended: Path) -> None:
    (words,) = [w for w in commands(DOCS / "extend.md") if "classify.loss=poly" in w]
    printed = run_in(extended, *words[1:], "--set", "update.training.epochs=1")
    assert metrics_told() >= {general(name) for name in json.loads(printed)}


def test_methods_of_the_page_pass_the_contract_of_their_kind(extended: Path) -> None:
    files = [f"tests/trainables/methods/test_{kind}.py" for kind in ("losses", "gates")]
    options = ["-q", "-p", "no:cacheprovider", "-k", "poly or novelty_floor"]
    printed = run_in(extended, "-m", "pytest", *files, *options)
    assert int(re.findall(r"(\d+) passed", printed)[0]) > 40


@pytest.mark.parametrize("path", METHODS)
def test_example_in_the_docstring_of_a_page_runs(extended: Path, path: str) -> None:
    name = path.removesuffix(".py").replace("/", ".")
    printed = run_in(extended, "-c", f"import doctest, {name} as m; print(doctest.testmod(m))")
    assert printed.strip() == "TestResults(failed=0, attempted=1)"


def test_space_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_space.py").write_text(EXAMPLES["my_space.py"], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    base = load_experiment(ROOT / "experiments/digits.yaml")
    vary = search_spaces.load(OWN_SPACE)
    assert vary(Pick(Start()), base) == base
    drawn = [vary(Pick(FromTrial(trial)), base) for trial in trials(20)]
    assert len({recipe.classify.loss.name for recipe in drawn}) == 3
    assert {recipe.classify.training.batch_size for recipe in drawn} == {32, 64}
    assert search_spaces.objectives(OWN_SPACE) == ("evaluate/accuracy/balanced:max",)


def trials(count: int) -> list[optuna.Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [study.ask() for _ in range(count)]


def test_table_of_the_page_is_one() -> None:
    (example,) = blocks(text_of("published_tables"), "yaml")
    table = build(schema.Table, yaml.safe_load(example))
    runs = schema.recipes(table, ROOT, (), schema.Wanted())
    assert [run.row for run in runs if run.seed == 0] == ["CE", "cRT", "LDAM"]
    assert {run.experiment.rebalance.method.name for run in runs} == {"none", "crt"}


def test_row_of_the_page_fits_the_table() -> None:
    (example,) = blocks(section(text_of("extend"), "Add a row to a table"), "yaml")
    table, _ = schema.load_table("cifar10_lt")
    tree = table.model_dump(mode="json")
    tree["rows"] += yaml.safe_load(example)
    tree["order"] += ["focal < LDAM-DRW"]
    grown = build(schema.Table, tree)
    assert grown.row("focal").cells["100"].published == (70.38,)


def metrics_told() -> set[str]:
    """Return the metrics of `evaluate` that the page names; F, STAGE and MODEL stand for others."""
    rows = section(text_of("metrics_and_files"), "Metrics of a recipe").splitlines()
    cells = [row.split(" | ")[0] for row in rows if row.startswith("| `")]
    return {f"evaluate/{name}" for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def general(name: str) -> str:
    """Return a metric's name as the page has it.

    >>> general("evaluate/prior_shift/forward_50/known"), general("evaluate/cost/classify_steps")
    ('evaluate/prior_shift/forward_F/known', 'evaluate/cost/STAGE_steps')
    >>> general("evaluate/updated/accuracy")
    'evaluate/MODEL/accuracy'
    """
    name = re.sub(r"ward_\d+", "ward_F", name)
    name = re.sub(r"^evaluate/(first|updated)/", "evaluate/MODEL/", name)
    return re.sub(r"cost/\w+_(steps|samples)$", r"cost/STAGE_\1", name)
