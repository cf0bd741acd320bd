"""The documents are true: trees, tables, commands, examples."""

import doctest
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.core import TyperGroup
from typer.main import get_command

import search_spaces
from orchestrator.catalog import PAGE, _value, render
from orchestrator.cli import app
from trainables.experiment import Experiment, load_experiment
from trainables.methods.method import Method
from trainables.pipeline import EVALUATE_ONLY, OPEN_VIEWS, STAGES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = [page for page in PAGES if page != PAGE]


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


def test_methods_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `make docs`"


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


@pytest.mark.parametrize("page", WRITTEN, ids=by_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", WRITTEN, ids=by_name)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("experiments/x.yaml", "")
    text = text.replace("search_spaces/y.py", "").replace("losses/poly.py", "losses/ldam.py")
    names = r"\b(?:experiments|search_spaces|trainables|orchestrator|docs|tests)/[\w/]+\.\w+"
    named = re.findall(names, text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", WRITTEN, ids=by_name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.M))
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"`make (\w+)", text)) <= targets
    assert set(re.findall(r"^make (\w+)", text, flags=re.M)) <= targets


def test_every_stage_has_a_page_and_a_row() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| .* \[(\w+)\.md\]", index, flags=re.M)
    assert [stage for stage, page in rows if stage == page] == ["data", *STAGES]


def test_every_space_has_a_row() -> None:
    text = (ROOT / "docs/search.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text, flags=re.M)
    assert sorted(rows) == search_spaces.names()


def test_views_are_those_of_the_plan() -> None:
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    (opened, guarded) = re.findall(r"^\| (`\w+`(?:, `\w+`)+) \|", text, flags=re.M)[-2:]
    assert tuple(re.findall(r"`(\w+)`", opened)) == OPEN_VIEWS
    assert tuple(re.findall(r"`(\w+)`", guarded)) == EVALUATE_ONLY


# --- tables of settings -----------------------------------------------------------------------


def settings_of(value: BaseModel, prefix: str) -> dict[str, str]:
    """Return dotted name -> default as it is written in YAML; a method by its name."""
    found: dict[str, str] = {}
    for name in type(value).model_fields:
        held, path = getattr(value, name), f"{prefix}{name}"
        if isinstance(held, Method):
            found[path] = held.name
        elif isinstance(held, BaseModel):
            found |= settings_of(held, f"{path}.")
        else:
            found[path] = "[]" if held == () else _value(held)
    return found


def table(stage: str) -> dict[str, str]:
    text = (ROOT / f"docs/{stage}.md").read_text(encoding="utf-8").partition("## Settings")[2]
    return dict(re.findall(r"^\| `([\w.]+)` \| (\S+) \|", text, flags=re.M))


@pytest.mark.parametrize("stage", ["data", *STAGES])
def test_table_of_settings_is_true(stage: str) -> None:
    real = settings_of(getattr(Experiment(), stage), f"{stage}.")
    written = table(stage)
    assert {name: real.get(name) for name in written} == written
    missing = set(real) - set(written)
    shared = {name for name in missing if ".training." in name and stage != "classify"}
    assert missing - shared == set(), "not in the table"


# --- commands ---------------------------------------------------------------------------------


def commands(page: Path) -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [shlex.split(line) for block in blocks for line in block.strip().splitlines()]


def experiment_examples() -> list[list[str]]:
    heads = [p.read_text("utf-8").partition("\nname:")[0] for p in ROOT.glob("experiments/*.yaml")]
    lines = re.findall(r"^#   (.+?)(?:\s{2,}\(.*)?$", "\n".join(heads), flags=re.M)
    return [shlex.split(line) for line in lines]


COMMANDS = [words for page in WRITTEN for words in commands(page)] + experiment_examples()
OWN = [words[1:] for words in COMMANDS if words[0] == "orchestrator"]
SWEEPS = [
    ["sweep", *shlex.split(word.removeprefix("ARGS="))]
    for words in COMMANDS
    for word in words
    if word.startswith("ARGS=")
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
    if "study" in options:
        search_spaces.load(str(options["study"]))


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
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    described = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    assert described["max_workers"] == len(described["provider"]["worker_ips"])
    for command in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token ray start" in described[command][-1]
    assert "--dashboard-host=127.0.0.1" in described["head_start_ray_commands"][-1]
    validate_config(prepare_config(described))


# --- the worked example -----------------------------------------------------------------------


def test_method_of_the_readme_works_from_its_file_alone(tmp_path: Path) -> None:
    code = README.partition("## Add a method")[2].split("```python\n")[1].split("```")[0]
    place = code.splitlines()[0].removeprefix("# ")
    shutil.copytree(ROOT / "trainables", tmp_path / "trainables")
    (tmp_path / place).write_text(code, encoding="utf-8")
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    (words,) = [words for words in commands(ROOT / "README.md") if "classify.loss=poly" in words]
    run = [sys.executable, *words[1:], "--set", "update.training.epochs=1"]
    example = "import doctest, trainables.methods.losses.poly as m; print(doctest.testmod(m))"
    for command in (run, [sys.executable, "-c", example]):
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("TestResults(failed=0, attempted=1)")
