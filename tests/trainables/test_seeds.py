"""Several seeds of one recipe in this process, one after the other."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from trainables import __main__ as command
from trainables.artifacts import Classifier, load_artifact

SMALL: dict[str, Any] = {
    "data.max_per_class": 30,
    "classify.training.epochs": 1,
    "classify.training.lr": 0.001,
    "classify.training.batch_size": 64,
    "update.training.epochs": 1,
}
SETS = [part for path, value in SMALL.items() for part in ("--set", f"{path}={value}")]
COMMAND = ["experiments/digits.yaml", *SETS, "--device", "cpu"]


def test_each_seed_gives_what_it_gives_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    several, alone = tmp_path / "several", tmp_path / "alone"
    with caplog.at_level(logging.INFO, "trainables"):
        assert command.main([*COMMAND, "--seeds", "4,5", "--out", str(several)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["4", "5"]
    named = [message[:6] for message in caplog.messages if "classify/loss" in message]
    assert named == ["seed 4", "seed 5"]
    for seed, metrics in printed.items():
        folder = several / f"seed-{seed}"
        assert json.loads((folder / "metrics.json").read_text()) == metrics
        assert f"seed: {seed}" in (folder / "experiment.yaml").read_text()
    caplog.clear()
    with caplog.at_level(logging.INFO, "trainables"):
        assert command.main([*COMMAND, "--set", "seed=5", "--out", str(alone)]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["evaluate/accuracy/balanced"] == printed["5"]["evaluate/accuracy/balanced"]
    assert not any(message.startswith("seed") for message in caplog.messages)
    heads = [
        load_artifact(Classifier, folder / "classifier").state["bias"].tolist()
        for folder in (several / "seed-4", several / "seed-5", alone)
    ]
    assert heads[0] != heads[1] == heads[2]


def test_a_seed_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["experiments/digits.yaml", "--seeds", "0,one"]) == 2
    assert capsys.readouterr().err == (
        "error: --seeds: allowed: whole numbers below 10^9 with commas, e.g. 0,1,2; "
        "received '0,one'\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "nope"], "--device: 'nope' cannot be used"),
        (["--device", "cuda:99"], "--device: 'cuda:99' cannot be used"),
        (["--out", "/dev/null/x"], "--out: cannot write to '/dev/null/x'"),
        (["--out", "x" * 300], "--out: cannot write to"),
        (["--seeds", "\u00b2"], "--seeds: allowed: whole numbers"),
        (["--threads", "\u00b2"], "--threads: allowed: 1 to 9999"),
        (["--set", "name=!!set {a}"], "no plain value"),
        (["--set", "classify.training.lr=1e30"], "loss is"),
    ],
)
def test_what_cannot_run_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert command.main(["experiments/digits.yaml", *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert message in lines[0]
