"""Names of samplers: what is refused, in one line and before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.search.sampler_names import NAMES, SamplerPlan, check_name
from tests.helpers import ROOT
from trainables.errors import ConfigError


@pytest.mark.parametrize("name", [*NAMES, "package.module:Class", "optunahub:samplers/a:Class"])
def test_names_that_are_known(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nsga", r"unknown sampler 'nsga'; allowed: tpe, .*; did you mean 'nsga2'\?"),
        ("cma", r"did you mean 'cmaes'\?"),
        ("quadratic", "unknown sampler 'quadratic'"),
        ("", "unknown sampler ''"),
        (":Class", "is written package.module:Class"),
        ("module:", "is written package.module:Class"),
        ("a:b:c", "is written package.module:Class"),
        ("optunahub:Class", "or optunahub:PACKAGE:Class; received 'optunahub:Class'"),
        ("optunahub", "unknown sampler 'optunahub'"),
    ],
)
def test_names_that_are_not(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        check_name(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("package", "name"), [("cmaes", "cmaes"), ("optunahub", "optunahub:samplers/a:Class")]
)
def test_a_missing_package_is_named(
    package: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what Python itself does for "not there"
    with pytest.raises(ConfigError, match=f"not installed: pip install {package} "):
        check_name(name)


def test_notes_name_every_parameter() -> None:
    left = ("loss.focal.gamma", "loss.ldam.form", "loss.ldam.scale", "mode")
    (note,) = SamplerPlan("gp", frozenset({"y", "x"}), left).notes(24)
    assert note.startswith("sampler gp draws 2 of 6 parameters: x, y; tpe draws the others")
    assert note.endswith("cannot draw: loss.focal.gamma, loss.ldam.{form, scale}, mode")
    assert SamplerPlan("gp", frozenset({"x"}), ()).notes(24) == [
        "sampler gp draws 1 of 1 parameters: x"
    ]


@pytest.mark.parametrize(("trials", "notes"), [(50, 2), (51, 1)])
def test_a_search_that_ends_before_it_breeds_is_told(trials: int, notes: int) -> None:
    found = SamplerPlan("nsga2", frozenset({"x"}), ()).notes(trials)
    assert len(found) == notes
    assert "first 50 trials" in " ".join(found) or notes == 1


RUN = """
import sys, atexit
atexit.register(lambda: print("heavy:", *sorted({'ray', 'torch', 'mlflow'} & set(sys.modules))))
sys.modules[sys.argv[1]] = None
from orchestrator.cli.main import main
main(['sweep', '--storage', sys.argv[2], *sys.argv[3:]])
"""


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        ("nothing", ["--sampler", "gpp"], "unknown sampler 'gpp'"),
        ("cmaes", ["--sampler", "cmaes", "--space", "update"], "pip install cmaes"),
        ("nothing", ["--sampler", "cmaes"], "searches by one objective"),
        ("nothing", ["--sampler", "cmaes", "--space", "families"], "can draw no parameter"),
        ("nothing", ["--sampler", "optuna.samplers:GPSamplr"], "did you mean 'GPSampler'?"),
    ],
)
def test_a_sweep_refuses_in_one_line_before_ray_starts(
    missing: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, missing, str(tmp_path / "runs"), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert "ray" not in done.stdout.partition("heavy:")[2].split()
    assert not (tmp_path / "runs" / "sweeps").exists()
