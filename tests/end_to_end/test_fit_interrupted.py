"""A fit that is interrupted on its whole way, and started again, ends as one that was not."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.fitting.fit_record import FitRecord, load_fit
from orchestrator.fitting.registering import KEY_TAG
from orchestrator.registry.versions import Registry
from orchestrator.tracking.mlflow_client import tracking_uri
from tests.helpers.small_fit import run_cut_short, write_photos, write_weights

SIZES = {"zero": 40, "one": 30, "two": 28, "three": 26, "four": 9, "five": 6}
INTERRUPT, KILL = signal.SIGINT, signal.SIGKILL
MOMENTS = [  # in the order of a fit: a function, and which of its calls is not finished
    ("trainables.data.shots.look:_sort", 1, INTERRUPT),
    ("orchestrator.fitting.photo_folder:write_table", 1, KILL),
    ("trainables.stages.extract:extract_views", 1, INTERRUPT),
    ("trainables.stages.extract_held_out:extract_views", 1, KILL),
    ("orchestrator.fitting.trying.answer_table:_answered", 2, KILL),
    ("orchestrator.fitting.trying.answer_table:_answered", 1, INTERRUPT),
    ("trainables.rehearsal.rehearse:play", 3, KILL),
    ("trainables.rehearsal.rehearse:play", 1, INTERRUPT),
    ("orchestrator.registry.versions:Registry.register", 1, INTERRUPT),
    ("orchestrator.registry.promote:decide", 1, KILL),
    ("orchestrator.fitting.fit_record:FitRecord.save", 1, KILL),
]
VARIES = ("storage", "seconds", "started", "report", "suspects_file")


@pytest.fixture(scope="module")
def context() -> Any:
    """Return processes that begin with all that a fit imports."""
    context = multiprocessing.get_context("forkserver")
    names = ("orchestrator.fitting.job", "orchestrator.fitting.registering", "timm", "sklearn")
    context.set_forkserver_preload(["tests.helpers.small_fit", *names])
    return context


def fit(context: Any, words: list[str], log: Path, moment: tuple[str, int, int]) -> int | None:
    """Run a fit and return how it ended."""
    process = context.Process(target=run_cut_short, args=(words, log, *moment))
    process.start()
    process.join(120)
    assert process.exitcode is not None, log.read_text()
    return process.exitcode


def weights_of(storage: Path) -> dict[str, str]:
    """Return a digest of each file of the exported model, but for the time in the ledger."""
    served = storage / "models" / "photos" / "served"
    files = [file for file in served.rglob("*") if file.is_file()]
    return {
        str(file.relative_to(served)): hashlib.sha256(
            re.sub(rb'"first_seen": "[^"]+"', b"", file.read_bytes())
        ).hexdigest()
        for file in files
    }


def facts_of(storage: Path) -> dict[str, Any]:
    """Return what a fit's record says, but for times and places."""
    record = load_fit(storage / "models" / "photos")
    assert isinstance(record, FitRecord)
    left_out: Any = {**dict.fromkeys(VARIES, True), "search": {"seconds"}}
    facts = record.model_dump(mode="json", exclude=left_out)
    facts["recipe"]["data"].pop("source")
    facts["recipe"]["data"].pop("root")
    facts["recipe"]["pretrain"].pop("backbone")
    return facts


def stored(storage: Path, *wings: str) -> set[str]:
    """Return what is kept below folders of a storage."""
    return {str(f) for wing in wings for f in (storage / wing).rglob("*") if f.is_file()}


@pytest.mark.slow
def test_nothing_is_lost_or_twice(
    context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    photos = write_photos(tmp_path / "photos", SIZES)
    words = ["fit", str(photos), "--backbone", str(write_weights(tmp_path / "weights"))]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    log = tmp_path / "log"
    assert fit(context, [*words, "--storage", str(whole)], log, ("", 0, 0)) == 0, log.read_text()

    again = [*words, "--storage", str(parts)]
    kept: set[str] = set()
    for moment in MOMENTS:
        code = fit(context, again, log, moment)
        said = log.read_text()
        if moment[2] == INTERRUPT:
            assert code == 130, (moment, said)
            assert said.splitlines()[-1] == "interrupted: the same command goes on where it was"
        else:
            assert code == -KILL, (moment, said)
        assert "Traceback" not in said
        now = stored(parts, "stages", "features")
        finished = {file for file in now if file.endswith("manifest.json")}
        assert kept <= finished, moment
        kept = finished
    assert fit(context, again, log, ("", 0, 0)) == 0, log.read_text()

    assert weights_of(parts) == weights_of(whole)
    assert facts_of(parts) == facts_of(whole)
    for storage in (whole, parts):
        registry = Registry(tracking_uri(None, storage))
        assert registry.versions("photos") == ["1"]
        assert registry.aliases("photos") == {"champion": "1"}
        client = registry._client
        (experiment,) = client.search_experiments(filter_string="name = 'fit'")
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED"
        assert run.data.tags[KEY_TAG]
        for name in run.data.metrics:
            assert len(client.get_metric_history(run.info.run_id, name)) == 1
    gates = json.loads((parts / "models/photos/fit.json").read_text())["promotion"]["gates"]
    assert not any("version 1" in gate["reason"] for gate in gates)  # compared with itself
