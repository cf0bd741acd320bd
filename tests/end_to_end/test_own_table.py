"""A table of one's own images, named by a relative path: plan, its refusals, a run without Ray."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.pictures import draw

CLASSES = ("ant", "bee", "cat", "dog", "elk")
RECIPE = """
name: own
data:
  source: table:../lists/photos.csv
  columns: {label: species, group: animal}
  novel_classes: [cat, dog, elk]
  validation_novel_classes: [dog]
  phases: 2
  validation_per_class: 6
  stream: {known: 20, novel: 20, unrelated: 4}
classify:
  training: {epochs: 2, batch_size: 16, lr: 0.05, precision: float32, layout: channels_last}
rebalance: {method: ridge}
update:
  training: {epochs: 1, batch_size: 32, lr: 0.05}
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Write images, their table beside them in a folder of lists, and a recipe in a third one."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "work/own.yaml").write_text(RECIPE)
    with (tmp_path / "lists/photos.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["File Name", "species", "animal"])
        for number, name in enumerate(CLASSES):
            for n in range(45):
                draw(tmp_path / f"images/{name}{n}.png", number, noise=n)
                writer.writerow([f"../images/{name}{n}.png", name, f"{name}-{n // 3}"])
    return tmp_path / "work"


def run(module: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=540, check=False,
    )  # fmt: skip


def test_plan_and_run_of_a_table(work: Path) -> None:
    planned = run("orchestrator", "plan", "--no-show", "-e", "own.yaml", cwd=work)
    assert planned.returncode == 0, planned.stderr
    assert (
        "5 classes (2 known, 1 new in validation, 1 new in test, 1 new in a later phase); "
        "180 images in train and 45 in test"
    ) in planned.stdout
    done = run("trainables", "own.yaml", "--set", "data.world=test", cwd=work)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert metrics["evaluate/accuracy/balanced"] > 0.5
    assert "evaluate/novelty/auroc" in metrics


def test_plan_of_a_table_with_faults_shows_all_of_them(work: Path) -> None:
    table = work.parent / "lists/photos.csv"
    with table.open("a", encoding="utf-8") as file:
        file.write("../images/gone.png;ant;x\n../images/ant0.png;bee;ant-0\n;cat;y\n")
    (work.parent / "images/elk7.png").write_bytes(b"")
    done = run("orchestrator", "plan", "--no-show", "-e", "own.yaml", cwd=work)
    assert done.returncode == 2
    told = done.stdout.replace("\n", " ")
    for words in ("line 227 lists", "line 228 gives", "line 229 has no file name", "elk7.png"):
        assert words in told
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.endswith("(and 3 more)")
    assert "Traceback" not in done.stderr
