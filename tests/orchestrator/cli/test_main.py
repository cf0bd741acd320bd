"""The console command: helps, options, errors."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from orchestrator.cli import main as cli
from orchestrator.options import SweepOptions
from orchestrator.records import Objective, SweepRecord
from orchestrator.tracking.mlflow_client import connect
from tests.helpers import ROOT
from tests.helpers.commands import Command

COMMANDS = (
    "sweep",
    "run",
    "plan",
    "methods",
    "spaces",
    "report",
    "clean",
    "ui",
    "promote",
    "predict",
    "reproduce",
    "version",
)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_teaches(command: str) -> None:
    done = CliRunner().invoke(cli.app, [*command.split(), "--help"])
    assert done.exit_code == 0
    taught = command in ("ui", "version") or "Examples" in done.output
    assert taught, "help shows how the command is used"


def test_help_lists_every_command() -> None:
    output = CliRunner().invoke(cli.app, ["--help"]).output
    assert [name for name in COMMANDS if name not in output] == []


@pytest.mark.parametrize("group", ["", "promote"])
def test_help_says_in_whole_lines_what_commands_do(group: str) -> None:
    output = CliRunner().invoke(cli.app, [*group.split(), "--help"], terminal_width=80).output
    listed = output.partition("Commands:")[2].partition("Examples:")[0]
    assert listed.strip(), output
    assert "..." not in listed


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_option_and_example(command: str) -> None:
    group = get_command(cli.app)
    assert isinstance(group, TyperGroup)
    found = group.commands[command]
    output = CliRunner().invoke(cli.app, [command, "--help"]).output
    options = [name for option in found.params for name in (*option.opts, *option.secondary_opts)]
    assert [name for name in options if name not in output] == []
    examples = (found.epilog or "").splitlines()[1:]  # after the mark that keeps lines apart
    assert [line for line in examples if line.strip() not in output] == []


def test_no_arguments_print_the_help(orchestrator: Command) -> None:
    done = orchestrator()
    assert "Usage" in done.stdout + done.stderr


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "plan", "--set", "a=1"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: experiment: unknown key 'a'")


HEAVY = ("torch", "numpy", "ray", "optuna", "mlflow", "sklearn", "pandas", "scipy", "rich")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["sweep", "--help"],
        ["sweep", "--trials", "0"],
        ["sweep", "--set", "classify.los=ldam"],
        ["plan", "--set", "classify.loss=ldan"],
        ["run", "--experiment", "nowhere.yaml"],
        ["report", "nobody"],
        ["methods", "loss"],
    ],
    ids=" ".join,
)
def test_help_and_errors_load_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys, types\nfrom orchestrator.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        f"loaded = [n for n in {HEAVY!r} if type(sys.modules.get(n)) is types.ModuleType]\n"
        "print('loaded:', loaded)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1] == "loaded: []", done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "--trials", "0"], "--trials: Input should be greater than or equal to 1"),
        (["sweep", "--workers", "0"], "--train-workers: Input should be greater than or equal"),
        (["sweep", "--objective", "accuracy"], "--objective is written METRIC:max or METRIC:min"),
        (["sweep", "--scheduler", "asah"], "--scheduler: Input should be 'none', 'asha'"),
        (["plan", "--set", "clasify.loss=ldam"], "did you mean 'classify'?"),
        (["plan", "--set", "classify.loss=ldan"], "did you mean 'ldam'?"),
        (["plan", "--experiment", "experiments/digit.yaml"], "did you mean 'digits'?"),
        (["methods", "loss"], "unknown kind 'loss'"),
        (["report", "nobody"], "no sweep 'nobody' in runs"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(
    orchestrator: Command, words: list[str], message: str
) -> None:
    done = orchestrator(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_unknown_option_is_exit_status_two(orchestrator: Command) -> None:
    done = orchestrator("sweep", "--trails", "3")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise ValueError("shapes differ")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(ValueError, match="shapes differ"):
        cli.main([])


def test_sweep_command_has_the_options_of_a_sweep_with_equal_defaults() -> None:
    command = {
        name: ()
        if parameter.default is None and name in ("sets", "objectives", "gates")
        else parameter.default
        for name, parameter in inspect.signature(cli.sweep).parameters.items()
    }
    options = {name: field.default for name, field in SweepOptions.model_fields.items()}
    assert command == options


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], SweepOptions()),
        (["--space", "update", "--trials", "3"], SweepOptions(space="update", trials=3)),
        (["--set", "seed=1", "--set", "a=b=c"], SweepOptions(sets=("seed=1", "a=b=c"))),
        (["--no-promote", "--name", "x"], SweepOptions(promote=False, name="x")),
        (
            ["--objective", "a/b:max", "--objective", "c:min"],
            SweepOptions(
                objectives=(Objective(metric="a/b", mode="max"), Objective(metric="c", mode="min"))
            ),
        ),
        (["--gpus-per-trial", "0.5"], SweepOptions(gpus_per_trial=0.5)),
        # by former names
        (["--study", "update", "--workers=2"], SweepOptions(space="update", train_workers=2)),
        (["--study=update", "--seeds", "1"], SweepOptions(space="update", num_seeds=1)),
        (
            ["--objective", "evaluate/update/without:max"],
            SweepOptions(
                objectives=(Objective(metric="evaluate/update/accuracy_before", mode="max"),)
            ),
        ),
    ],
)
def test_words_become_options(
    words: list[str], options: SweepOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[SweepOptions] = []
    monkeypatch.setattr("orchestrator.trials.sweep.run_sweep", received.append)
    monkeypatch.setattr(cli, "_recipe", lambda *_: None)
    with pytest.raises(SystemExit) as left:
        cli.main(["sweep", *words])
    assert left.value.code == 0
    assert received == [options]


FORMER_OPTIONS = [
    ("sweep", "--study", "--space", "space"),
    ("sweep", "--workers", "--train-workers", "train_workers"),
    ("sweep", "--seeds", "--num-seeds", "num_seeds"),
    ("predict", "--version", "--model-version", "model_version"),
    ("reproduce", "--at-once", "--concurrency", "concurrency"),
]


@pytest.mark.parametrize(("name", "former", "current", "field"), FORMER_OPTIONS)
def test_former_options_work_and_are_not_shown(
    name: str, former: str, current: str, field: str
) -> None:
    group = get_command(cli.app)
    assert isinstance(group, TyperGroup)
    command = group.commands[name]
    for words in ([former, "7"], [f"{former}=7"], [current, "7"]):
        found = command.make_context(name, ["cat.png", *words] if name == "predict" else words)
        assert str(found.params[field]) == "7", words
    output = CliRunner().invoke(cli.app, [name, "--help"]).output
    assert not re.search(rf"(?<!\w){former}\b", output)
    refused = CliRunner().invoke(cli.app, [name, f"{former}x", "7"])  # no option has that name
    assert refused.exit_code == 2
    assert not re.search(rf"(?<!\w){former}\b(?!x)", refused.output)


def test_words_after_the_end_of_options_are_left_alone() -> None:
    group = get_command(cli.app)
    assert isinstance(group, TyperGroup)
    found = group.commands["predict"].make_context("predict", ["--", "--version"])
    assert found.params["images"] == ["--version"]
    assert found.params["model_version"] == "champion"


def test_recipe_is_found_from_another_folder(orchestrator: Command, tmp_path: Path) -> None:
    done = orchestrator("plan", "--no-show", cwd=tmp_path)
    assert done.stdout.startswith("digits: 10 stages")


def test_own_file_wins_over_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiments").mkdir()
    mine = tmp_path / "experiments/digits.yaml"
    mine.write_text("name: mine", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert cli._located(Path("experiments/digits.yaml")).resolve() == mine


def test_plan_shows_stages_and_their_wiring(orchestrator: Command) -> None:
    output = orchestrator("plan", "--show", "--set", "classify.loss=ldam").stdout
    for word in ("pretrain", "evaluate", "pseudo_labels", "losses/ldam"):
        assert word in output


def test_methods_show_settings_ranges_and_sources(orchestrator: Command) -> None:
    output = orchestrator("methods", "losses").stdout
    for word in ("ldam", "max_margin", "0.1 .. 0.8", "Cao et al. 2019"):
        assert word in output


def test_methods_without_kind_list_all(orchestrator: Command) -> None:
    output = orchestrator("methods").stdout
    assert "constrained_kmeans" in output
    assert "losses" in output


def test_spaces_say_what_varies(orchestrator: Command) -> None:
    assert "Long tail:" in orchestrator("spaces").stdout


def test_version_names_what_it_stands_on(orchestrator: Command) -> None:
    assert "torch " in orchestrator("version").stdout


def write_sweep(storage: Path, name: str) -> Path:
    folder = storage / "sweeps" / name
    SweepRecord(
        name=name,
        space="full",
        started="2026-01-02T03:04:05+00:00",
        experiment={},
        objectives=[Objective(metric="evaluate/accuracy", mode="max")],
        environment={},
    ).save(folder)
    return folder


def test_report_lists_sweeps(orchestrator: Command, tmp_path: Path) -> None:
    write_sweep(tmp_path, "monday")
    output = orchestrator("report", "--storage", str(tmp_path)).stdout
    assert "monday" in output
    assert "2026-01-02 03:04" in output


def test_report_of_no_sweep_names_the_nearest(orchestrator: Command, tmp_path: Path) -> None:
    write_sweep(tmp_path, "monday")
    done = orchestrator("report", "munday", "--storage", str(tmp_path))
    assert "known: monday; did you mean 'monday'?" in done.stderr


def test_report_is_written_again(orchestrator: Command, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "monday")
    done = orchestrator("report", "monday", "--storage", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.strip())
    assert page.is_relative_to(folder)
    assert "monday" in page.read_text(encoding="utf-8")


def test_ui_of_a_server_says_where_it_is(
    orchestrator: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9" in orchestrator("ui").stdout


def test_ui_shows_no_password(
    orchestrator: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:hunter2@127.0.0.1:9")
    assert "by the server at https://***@127.0.0.1:9" in orchestrator("ui").stdout
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:hunter2@127.0.0.1:9/mlflow")
    words: list[str] = []
    monkeypatch.setattr("os.execve", lambda program, given, environment: words.extend(given))
    orchestrator("ui", "--storage", str(tmp_path))
    assert "server" in words
    assert "hunter2" not in " ".join(words), "other users read a command line"


def test_a_server_that_does_not_answer_is_one_line_without_its_password(
    orchestrator: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:9")
    done = orchestrator("promote", "list", "--storage", str(tmp_path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: MLflow: ")
    assert "hunter2" not in done.stdout + done.stderr


def test_ui_listens_on_this_machine_only(
    orchestrator: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[str] = []
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    environment: dict[str, str] = {}

    def execve(_: str, words: list[str], variables: dict[str, str]) -> None:
        started.extend(words)
        environment.update(variables)

    monkeypatch.setattr("os.execve", execve)
    (tmp_path / "mlflow.db").touch()
    orchestrator("ui", "--storage", str(tmp_path), "--port", "5001")
    assert started[started.index("--host") + 1] == "127.0.0.1"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert environment["PYTHONSAFEPATH"] == "1"  # a tty.py in the working folder is not imported


QUICK = ["classify.training.epochs=1", "update.training.epochs=1", "data.profile=balanced"]


def test_run_prints_metrics_and_keeps_the_resolved_recipe(
    orchestrator: Command, tmp_path: Path
) -> None:
    words = [word for text in QUICK for word in ("--set", text)]
    done = orchestrator("run", *words, "--storage", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "evaluate/accuracy" in json.loads(done.stdout)
    (recipe,) = tmp_path.glob("recipes/*/experiment.yaml")
    kept = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    assert kept["classify"]["training"]["epochs"] == 1


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_promotion_of_nobody_is_one_line(
    orchestrator: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    connect(f"sqlite:///{tmp_path}/mlflow.db")
    done = orchestrator("promote", "list", "--storage", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no model is registered yet")
