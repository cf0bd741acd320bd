"""Bad input is one line on standard error and status 2, in every command."""

from pathlib import Path

import pytest

from tests.helpers.commands import Command

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def refusal(command: Command, *words: str, **options: Path) -> str:
    """Return the one line with which a command refuses its words."""
    done = command(*words, **options)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines), done.stdout) == (2, 1, ""), done
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("a\nb=1", "unknown key 'a\ufffdb'"),
        ("name=!!set {a}", "no plain value"),
        ("name=!!binary aGk=", "no plain value"),
        ("name=&a [*a]", "part of what it repeats"),
        (f"seed={'1' * 5000}", "64 bits"),
        (f"name={'[' * 3000}", "more than 32 levels"),
        ("classify={training: {lr: 1}, training: {lr: 2}}", "'training' is set twice"),
        ("classify.then=x", "must be a list"),
        ("classify.loss.focal.gamma=99", "less than or equal to 10"),
        ("classify.training.lr=.inf", "finite number"),
        ("data.image_size=7", "allowed type: int | None; received 7"),
        ("pretrain.method.pretrained.checkpoint=a.safetensors", "no such file: a.safetensors"),
        ("pretrain.method.supervised.checkpoint=a.safetensors", "no such file: a.safetensors"),
        ("pretrain.method=pretrained", "backbone 'fastnet' has no pretrained weights"),
    ],
)
def test_settings(orchestrator: Command, setting: str, message: str) -> None:
    assert message in refusal(orchestrator, "plan", "--set", setting)


@pytest.mark.parametrize(
    "name", ["2026-11-30", "'a [/b] c'", "'[red]x[/red]'", "'1e-4'", "=", "' a '"]
)
def test_names_of_recipes_are_shown_as_they_are(orchestrator: Command, name: str) -> None:
    done = orchestrator("plan", "--no-show", "--set", f"name={name}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{name.strip(chr(39))}: 10 stages")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "--trials", "x"], "--trials"),
        (["sweep", "--trials", str(10**30)], "--trials: Input should be less than"),
        (["sweep", "--no-such"], "No such option: --no-such"),
        (["nothing"], "No such command 'nothing'"),
        (["plan", "more"], "unexpected extra argument"),
        (["predict"], "Missing argument"),
        (["promote", "version"], "Missing argument"),
        (["ui", "--port", "0"], "--port"),
        (["sweep", "--cpus-per-trial", "1e-320"], "--cpus-per-trial: must be 0 or between 0.001"),
        (["sweep", "--cpus-per-trial", "nan"], "--cpus-per-trial"),
        (["sweep", "--gpus-per-trial", "1.5"], "--gpus-per-trial: must be a share of one GPU"),
        (["sweep", "--name", "../../x"], "--name: must begin with a letter or digit"),
        (["sweep", "--name", "/tmp/x"], "--name: must begin"),
        (["sweep", "--name", ".."], "--name: must begin"),
        (["sweep", "--name", "x" * 300], "--name: must begin"),
        (["sweep", "--model", "a/b"], "--model: must begin"),
        (["sweep", "--model", ""], "--model: must begin"),
        (["sweep", "--model", "it's"], "--model: must begin"),
        # an empty text, which a shell makes of a variable that is not set, is no option left out
        (["sweep", "--name", ""], "--name: must not be empty; leave it out for its default"),
        (["sweep", "--address", ""], "--address: must not be empty"),
        (["predict", "x.png", "--tracking="], "--tracking: must not be empty"),
        (["promote", "list", "--model="], "--model: must begin"),
        (["fit", ""], "photos: must not be empty"),
        (["fit", "x", "--model", ""], "--model: must begin"),
        (["fit", "x", "--backbone", " "], "--backbone: must not be empty"),
        (["fit", "x", "--time="], "--time: must not be empty"),
        (["fit", "x", "--groups="], "--groups: must not be empty"),
        (["fit", "x", "--labels", ""], "--labels: must not be empty"),
        (["promote", "list", "--model", "it's"], "--model: must begin"),
        (["predict", "x.png", "--model", "a/b"], "--model: must begin"),
        (["sweep", "--study", "nope.nope:f"], "there is no module 'nope'"),
        (["sweep", "--space", "os:path"], "os has no function 'path'"),
        (["sweep", "--sampler", "nope.nope:f"], "there is no module 'nope'"),
        (["sweep", "--storage", "/dev/null"], "cannot write to '/dev/null'"),
        (["run", "--storage", "/dev/null"], "cannot write to '/dev/null'"),
        (["reproduce", "digits_lt", "--storage", "/dev/null"], "cannot write to '/dev/null'"),
        (["sweep", "--storage", "a?b"], "must have no '?'"),
        (["sweep", "--storage", "a%20b"], "no sequence like '%20'"),
        (["run", "--storage", "file:///tmp/a%2520b"], "no sequence like '%20'"),
        (["report", "--storage", "x" * 300], "--storage: must be a folder or a URI"),
        (["clean", "--storage", "x" * 300], "--storage: must be a folder or a URI"),
        (["clean", "--storage", "s3://"], "'s3://' names no bucket"),
        (["sweep", "--gate", "few.allowed=2"], "--gate: few: unknown key 'allowed'"),
        (["promote", "version", "1", "--gate", "x.y=1"], "--gate: unknown gate 'x'"),
        (["reproduce", "digits_lt", "--seeds", "\u00b2"], "--seeds: allowed: whole numbers"),
        (["sweep", "--experiment", "experiments"], "experiment file not found"),
        (["sweep", "--experiment", "x" * 300], "cannot be read: File name too long"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_options(orchestrator: Command, words: list[str], message: str) -> None:
    assert message in refusal(orchestrator, *words)


@pytest.mark.parametrize(
    "words",
    [["promote", "list"], ["promote", "rollback"], ["predict", "x.png"], ["ui"]],
    ids=" ".join,
)
def test_a_storage_without_runs_is_not_made(
    orchestrator: Command, tmp_path: Path, words: list[str]
) -> None:
    storage = tmp_path / "nothing"
    assert "nothing was recorded yet" in refusal(orchestrator, *words, "--storage", str(storage))
    assert not storage.exists()


def test_a_tracker_that_is_no_database_is_one_line(orchestrator: Command, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all, but long enough to be read as one")
    done = orchestrator("promote", "list", "--storage", str(tmp_path))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "file is not a database" in done.stderr


def test_a_tracker_of_an_unknown_kind_is_one_line(orchestrator: Command) -> None:
    assert "nope" in refusal(orchestrator, "promote", "list", "--tracking", "nope://x")
    line = refusal(orchestrator, "promote", "list", "--tracking", "2026-11-30")
    assert "address must be written like http://HOST:5000 or sqlite:///FILE" in line
