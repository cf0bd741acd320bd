"""The documents are true: trees, tables, commands, examples."""

import doctest
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command

import search_spaces
from orchestrator.cli import catalog, settings_page
from orchestrator.cli.main import app
from orchestrator.registry.gate_settings import choose_gates
from orchestrator.search.sampler_names import NAMES as SAMPLERS
from orchestrator.tables import schema
from tests.helpers import ROOT
from tests.helpers.pages import (
    DOCS,
    MEASURED,
    OWN_SPACE,
    PAGES,
    README,
    commands,
    section,
    text_of,
)
from tests.test_architecture import FLOORS
from trainables.experiment import load_experiment
from trainables.methods import KINDS
from trainables.models.networks import OWN as OWN_TRUNKS
from trainables.pipeline import EVALUATE_ONLY, OPEN_VIEWS, STAGES

WIDEST = 115  # characters of a table's row as it is shown
# Tutorial, how-to, reference, explanation apart
PAGE_NAMES = [
    *("index", "first_sweep", "data", "photos", "search", "machines_and_gpus", "promote_and_serve"),
    *("published_tables", "extend", "settings", "methods", "metrics_and_files"),
    *("how_it_works", "architecture", "security"),
]


def by_name(path: Path) -> str:
    return path.name


# --- examples in docstrings -------------------------------------------------------------------

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("trainables", "search_spaces", "orchestrator")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_examples_of_a_module_run(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted > 0
    assert done.failed == 0


# --- generated pages --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "now"), [("methods", catalog.page), ("settings", settings_page.render)]
)
def test_generated_page_is_current(name: str, now: Callable[[], str]) -> None:
    assert text_of(name) == now(), "run `make docs`"


# --- the tree ---------------------------------------------------------------------------------


def tracked() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("an export without .git: nothing is tracked")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.partition("/")[0] for line in done.stdout.splitlines()}


def listed() -> set[str]:
    block = README.partition("## The tree")[2].split("```")[1]
    names = [line.split("  ")[0] for line in block.strip().splitlines()]
    names += block.strip().splitlines()[-1].split()
    return {name.strip().rstrip("/") for name in names if name.strip()}


def test_readme_lists_every_top_level_file_and_folder() -> None:
    assert tracked() - listed() == set()


def test_readme_lists_nothing_that_is_not_there() -> None:
    assert [name for name in listed() if not (ROOT / name).exists()] == []


# --- links and names --------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_index_leads_to_every_page() -> None:
    assert {page.stem for page in DOCS.glob("*.md")} == set(PAGE_NAMES)
    table = text_of("index").partition("\n## ")[0]
    assert re.findall(r"^\| .* \| \[(\w+)\]\(\1\.md\)", table, flags=re.M) == PAGE_NAMES[1:]
    assert set(re.findall(r"\(measured/(\w+)\.md\)", table)) == {page.stem for page in MEASURED}


def test_the_index_explains_the_private_words() -> None:
    rows = re.findall(r"^\| ([\w, -]+) \| ", section(text_of("index"), "Words"), flags=re.M)
    words = {word for row in rows for word in row.split(", ")}
    assert words >= {"known", "new", "unrelated", "unknown", "recipe", "trial", "finalist", "base"}
    assert words >= {"champion", "challenger", "previous", "stream", "pool", "cluster"}
    assert words >= {"lease", "gate", "rung", "shelf", "stage store", "spool", "trunk", "oracle"}
    assert words >= {"bands"}


@pytest.mark.parametrize("page", [*PAGES, *MEASURED], ids=by_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", [*PAGES, *MEASURED], ids=by_name)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("experiments/x.yaml", "")
    text = text.replace("search_spaces/y.py", "").replace("losses/poly.py", "losses/ldam.py")
    text = text.replace("gates/novelty_floor.py", "gates/novelty.py")
    names = r"\b(?:experiments|search_spaces|trainables|orchestrator|docs|tests)/[\w/]+\.\w+"
    named = re.findall(names, text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.M))
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"`make (\w+)", text)) <= targets
    assert set(re.findall(r"^make (\w+)", text, flags=re.M)) <= targets


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != settings_page.PAGE], ids=by_name
)
def test_written_tables_are_not_too_wide(page: Path) -> None:
    """As they are shown: without marks, a link as its text."""
    written = page.read_text(encoding="utf-8").partition(catalog.MARK)[0]
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", written)
    rows = [re.sub(r"[`*]", "", line) for line in text.splitlines() if line.startswith("|")]
    assert [row for row in rows if len(row) > WIDEST] == []


def test_methods_that_are_recommended_exist() -> None:
    told = catalog.PAGE.read_text(encoding="utf-8").partition(catalog.MARK)[0]
    classes = [cls for kind in KINDS.values() for cls in kind.shelf.values()]
    known = {cls.name for cls in classes} | {f for cls in classes for f in cls.model_fields}
    known |= {part for group in settings_page.sections() for r in group.rows for part in parts(r)}
    distances = {"dot", "normalized_dot", "squared_l2", "normalized_squared_l2"}
    distances |= {"centered_normalized_dot", "centered_normalized_squared_l2"}
    others = {*OWN_TRUNKS, *distances, "full", "projections", "un", "l2n", "cl2n", "l2", "cos"}
    assert set(re.findall(r"`(\w+)`", told)) - known - others == set()


def parts(row: tuple[str, ...]) -> list[str]:
    return row[0].split(".")


def test_every_stage_is_explained_in_turn() -> None:
    told = section(text_of("how_it_works"), "The stages")
    assert re.findall(r"^\*\*(\w+)\*\* ", told, flags=re.M) == list(STAGES)


def test_every_space_has_a_row() -> None:
    table = section(text_of("search"), "Choose what varies")
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, flags=re.M)) == search_spaces.names()


def test_every_table_has_a_row_with_the_number_of_its_rows() -> None:
    told = re.findall(r"^\| `(\w+)` \| (\d+) \|", text_of("published_tables"), flags=re.M)
    assert {name: int(count) for name, count in told} == {
        name: len(schema.load_table(name)[0].rows) for name in schema.names()
    }


def test_every_gate_has_a_row_with_its_limits() -> None:
    table = section(text_of("promote_and_serve"), "Judge a version")
    told = re.findall(
        r"^\| `(\w+)` \| `([\w/]+)`[^|]*\|[^|]*\| ([\d.]+)[^|]*\| (\d+)", table, flags=re.M
    )
    every = {gate.name: gate for gate in choose_gates()}
    gates = {name: gate for name, gate in every.items() if hasattr(gate, "excused_regression")}
    limits = ("metric", "allowed_regression", "excused_regression")
    assert {name: (metric, float(a), float(b)) for name, metric, a, b in told} == {
        name: tuple(getattr(gate, limit) for limit in limits) for name, gate in gates.items()
    }
    others = every.keys() - gates
    assert others
    assert [name for name in others if f"| `{name}` |" not in table] == []


def test_every_sampler_has_a_row() -> None:
    text = (ROOT / "docs/search.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `--sampler (\w+)", text, flags=re.M)
    assert rows == [*SAMPLERS, "package", "optunahub"]


def test_views_are_those_of_the_plan() -> None:
    text = section(text_of("how_it_works"), "How a data set is cut")
    (opened, guarded) = re.findall(r"^\| (`\w+`(?:, `\w+`)+) \|", text, flags=re.M)[-2:]
    assert tuple(re.findall(r"`(\w+)`", opened)) == OPEN_VIEWS
    assert tuple(re.findall(r"`(\w+)`", guarded)) == EVALUATE_ONLY


def test_every_tag_is_told() -> None:
    told = set(re.findall(r"`(orchestrator\.\w+)", text_of("metrics_and_files")))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "orchestrator").rglob("*.py")]
    written = re.compile(r'"(orchestrator\.\w+)(?:"|\.\{)')
    assert {tag for text in sources for tag in written.findall(text)} == told


# --- the architecture page ---------------------------------------------------------------------

ARCHITECTURE = text_of("architecture")


@pytest.mark.parametrize(("column", "package"), list(enumerate(FLOORS)), ids=list(FLOORS))
def test_the_floors_are_those_that_are_tested(column: int, package: str) -> None:
    table = ARCHITECTURE.partition("## The floors")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    found = [set(re.findall(r"`(\w+)`", cells[column])) for cells in rows[1:]]
    assert [floor for floor in found if floor] == FLOORS[package][::-1]


@pytest.mark.parametrize("package", FLOORS)
def test_the_picture_shows_every_wing(package: str) -> None:
    picture = ARCHITECTURE.partition("```")[2].partition("```")[0]
    wings = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert {wing for wing in wings if not re.search(rf"\b{wing}\b", picture)} == set()


def test_the_way_of_a_recipe_passes_through_every_wing_of_the_orchestrator() -> None:
    way = ARCHITECTURE.partition("## The way of one recipe")[2].partition("\n## ")[0]
    wings = {path.parent.name for path in (ROOT / "orchestrator").glob("*/__init__.py")}
    assert {w for w in wings - {"tables"} if f"orchestrator/{w}/" not in way} == set()


# --- commands ---------------------------------------------------------------------------------


def experiment_examples() -> list[list[str]]:
    heads = [p.read_text("utf-8").partition("\nname:")[0] for p in ROOT.glob("experiments/*.yaml")]
    lines = re.findall(r"^#   (.+?)(?:\s{2,}\(.*)?$", "\n".join(heads), flags=re.M)
    return [shlex.split(line) for line in lines]


COMMANDS = [words for page in PAGES for words in commands(page)] + experiment_examples()
OWN = [words[1:] for words in COMMANDS if words[0] == "orchestrator"]
SWEEPS = [
    ["sweep", *shlex.split(word.removeprefix("ARGS="))]
    for words in COMMANDS
    for word in words
    if words[:2] == ["make", "sweep"] and word.startswith("ARGS=")
]
SUBMITTED = [["sweep", *words[words.index("--") + 1 :]] for words in COMMANDS if "submit" in words]


def parse(words: list[str]) -> dict[str, object]:
    """Read a command line as the program does, without running it; return its options."""
    command = get_command(app)
    while isinstance(command, TyperGroup):
        found = command.commands.get(words[0])
        assert found is not None, f"no command {words[0]}"
        command, words = found, words[1:]
    return dict(command.make_context(command.name, list(words)).params)


@pytest.mark.parametrize("words", [*OWN, *SWEEPS, *SUBMITTED], ids=" ".join)
def test_written_command_is_one_that_the_program_has(words: list[str]) -> None:
    options = parse(words)
    sets = [text for text in options.get("sets") or () if "=poly" not in text]
    load_experiment(ROOT / str(options.get("experiment", "experiments/digits.yaml")), sets)
    if "space" in options and options["space"] != OWN_SPACE:
        search_spaces.load(str(options["space"]))


def test_documents_do_have_commands() -> None:
    assert len(OWN) > 8
    assert len(SWEEPS) >= 2
    assert len(SUBMITTED) >= 1


QUICK = [
    words
    for words in commands(ROOT / "README.md")
    if words[:2] == ["orchestrator", "plan"] or words[:2] == ["orchestrator", "methods"]
]


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_quick_command_runs(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_cluster_file_is_one_that_ray_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    described = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    assert described["max_workers"] == len(described["provider"]["worker_ips"])
    for command in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token ray start" in described[command][-1]
    assert "--dashboard-host=127.0.0.1" in described["head_start_ray_commands"][-1]
    validate_config(prepare_config(described))
