"""A wheel in a fresh environment, far from the sources: what an editable install would hide."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from orchestrator.records import SweepRecord
from tests.helpers import ROOT

pytestmark = pytest.mark.slow

SMALL = (
    "--trials", "2", "--finalists", "1", "--num-seeds", "1", "--set", "classify.training.epochs=2",
    "--set", "update.training.epochs=1", "--set", "score.threshold={known_recall: {keep: 0.8}}",
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the files that git tracks, as `pip install .` would."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    if not (ROOT / ".git").exists():
        pytest.skip("an export without .git: the tracked files are not known")
    archive = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in archive.stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("tests/", "docs/pictures/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(target)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the unpacked wheel, over the installed dependencies."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next((folder / "lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(packages)
    # a path line, not a site folder: .pth files in it (an editable install) are not read
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for path in Path(sysconfig.get_paths()["purelib"]).glob("*.pth"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if Path(line).is_dir() and not (Path(line) / "pyproject.toml").exists():
                with (packages / "dependencies.pth").open("a") as more:
                    more.write(line + "\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def run(python: Path, home: Path, *words: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [str(python), *words],
        cwd=home, env={**environment, "OMP_NUM_THREADS": "1", "HOME": str(home)},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_the_wheel_that_runs(python: Path, home: Path) -> None:
    found = run(python, home, "-c", "import orchestrator, trainables; print(orchestrator.__file__)")
    assert found.startswith(str(python.parents[1]))


def test_tables_and_recipes_are_listed_by_name(python: Path, home: Path) -> None:
    assert "digits_lt" in run(python, home, "-m", "orchestrator", "reproduce")
    plan = run(python, home, "-m", "orchestrator", "plan", "--no-show")
    assert plan.startswith("digits: 10 stages")


@pytest.fixture(scope="module")
def swept(python: Path, home: Path) -> SweepRecord:
    """Run the script of `ray submit` from a home folder, as it is installed."""
    code = "import orchestrator; print(orchestrator.__path__[0])"
    script = Path(run(python, home, "-c", code).strip()) / "sweep.py"
    run(python, home, str(script), "--name", "home", *SMALL)
    return SweepRecord.load(home / "runs" / "sweeps" / "home")


def test_a_sweep_exports_registers_and_reports(swept: SweepRecord, home: Path) -> None:
    folder = home / "runs" / "sweeps" / "home"
    assert [trial.state for trial in swept.trials] == ["COMPLETE"] * 2
    assert "</html>" in (folder / "report.html").read_text(encoding="utf-8")
    exported = folder / "models" / swept.finalists[0].trial_id
    assert (exported / "classifier" / "artifact.json").is_file()
    assert swept.promotion is not None
    assert swept.promotion.version == "1"
