"""A sweep that ends early between its finalists and its champion goes on, and does nothing twice.

Search and finalists are behind it; the service run, MLflow and the registry are real. Stages run in
the driver's process, in place of Ray's workers.
"""

from __future__ import annotations

import hashlib
import importlib
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from orchestrator.options import SweepOptions
from orchestrator.records import (
    FinalistRecord,
    Objective,
    SelectionRecord,
    SweepRecord,
    TrialRecord,
    interval,
)
from orchestrator.registry.versions import Registry
from orchestrator.search.sampler_names import SamplerPlan
from orchestrator.tracking.mlflow_client import tracking_uri
from orchestrator.trials import sweep_job
from orchestrator.trials.finalists import recipe_of, run_seed
from orchestrator.trials.service_round import ServiceRound
from tests.helpers.small_fit import write_photos, write_weights
from trainables.artifacts import save_artifact
from trainables.context import Context
from trainables.data.shots.written_parts import write_parts
from trainables.experiment import Experiment, load_experiment
from trainables.pipeline import run

SIZES = {"zero": 40, "one": 32, "two": 30, "three": 28, "four": 26}
INTERRUPT, KILL = signal.SIGINT, signal.SIGKILL
MOMENTS = [  # in the order of a sweep: a function, and which of its calls does not begin
    ("orchestrator.trials.service_round:ServiceRound.run", 1, KILL),
    ("orchestrator.trials.service_round:export_model", 1, INTERRUPT),
    ("orchestrator.trials.service_round:save", 2, KILL),
    ("orchestrator.tracking.tracker:Tracker.finish_trial", 1, KILL),
    ("orchestrator.registry.versions:Registry.register", 1, INTERRUPT),
    ("orchestrator.registry.promote:decide", 1, KILL),
]
METRIC = "evaluate/accuracy/balanced"


def here(self: ServiceRound, recipe: Experiment, title: str, storage: str) -> None:
    """Run a recipe's stages in this process."""
    tree = recipe.model_dump(mode="json")
    run_seed(tree, {}, recipe.seed, storage, world="test", gpus=0.0, progress=("s", title))


def cut_short(moment: str, call: int, number: int) -> None:
    """Send this process a signal in place of a call; its children die with it by SIGKILL."""
    module, _, name = moment.partition(":")
    holder: Any = importlib.import_module(module)
    *above, attribute = name.split(".")
    for part in above:
        holder = getattr(holder, part)
    function, calls = getattr(holder, attribute), 0

    def counted(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            for child in psutil.Process().children(recursive=True) if number == KILL else ():
                child.kill()
            os.kill(os.getpid(), number)
        return function(*args, **named)

    setattr(holder, attribute, counted)


def go_on(storage: Path, base: Experiment, moment: tuple[str, int, int]) -> None:
    """Go on with a sweep whose finalists have run, as its driver does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    ServiceRound._compute = here  # type: ignore[method-assign]
    sweep_job.final_round_is_done = lambda *_: True
    sweep_job.SweepJob._running = lambda _: []  # type: ignore[method-assign]
    sweep_job.SweepJob.search = lambda job: setattr(job, "done", True)  # type: ignore[method-assign]
    if moment[0]:
        cut_short(*moment)
    record = SweepRecord.load(storage / "sweeps/s")
    options = SweepOptions(name="s", storage=str(storage), model="photos", trials=2)
    job = sweep_job.SweepJob(
        options,
        base,
        record,
        Console(quiet=True),
        SamplerPlan(),
        None,  # type: ignore[arg-type]
    )
    job._start_tracking()
    try:
        job.run()
    except KeyboardInterrupt:
        job.close()
        raise SystemExit(130) from None
    job.close()
    raise SystemExit(0 if job.status == "FINISHED" else 1)


def trial(number: int, **params: Any) -> TrialRecord:
    return TrialRecord(
        trial_id=f"trial-{number:04d}", number=number, state="COMPLETE", params=params
    )


def write_sweep(storage: Path, base: Experiment, served: str, evaluations: Path) -> None:
    """Write the record of a sweep whose winner is LDA, and what its finalists answered."""
    trials = [trial(0), trial(1, **{"rebalance.method": "lda"})]
    finalists = [
        FinalistRecord(
            trial_id=one.trial_id, params=one.params, seeds=[7],
            metrics={METRIC: interval([0.5]), "evaluate/novelty/auroc": interval([0.75])},
        )
        for one in reversed(trials)
    ]  # fmt: skip
    record = SweepRecord(
        name="s", space="frozen", started="", experiment=base.model_dump(mode="json"),
        environment={}, trials=trials, objectives=[Objective(metric=METRIC, mode="max")],
        finalists=finalists, served_source=served,
        selection=SelectionRecord(winner="trial-0001", base="trial-0000", reason="better"),
    )  # fmt: skip
    shutil.copytree(evaluations, storage / "sweeps/s/models")
    record.save(storage / "sweeps/s")


def facts(storage: Path) -> dict[str, Any]:
    """Return what a sweep ended with: record, verdict, and a digest of each file of the model."""
    record = SweepRecord.load(storage / "sweeps/s")
    assert record.service is not None
    assert record.promotion is not None
    gates = {gate.name: gate.verdict for gate in record.promotion.gates if gate.name != "latency"}
    folder = storage / "sweeps/s" / record.service.folder
    files = {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }
    promoted = (record.promotion.version, record.promotion.promoted, gates)
    return {"service": record.service, "promotion": promoted, "files": files}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    photos, weights = write_photos(tmp_path / "photos", SIZES), write_weights(tmp_path / "weights")
    base = load_experiment(
        None,
        [
            f"data.source=folder:{photos}", f"data.root={tmp_path}", "data.image_size=32",
            "data.novel_classes=[one, two]", "data.validation_novel_classes=[one]",
            "data.validation_per_class=4", "data.stream={known: 4, novel: 4, unrelated: 0}",
            "classify.training.epochs=0", "pretrain.method=pretrained", "rebalance.method=ridge",
            "score.method=msp", "score.threshold=false_alarm",
            f"pretrain.backbone=local-dir:{weights}",
        ],
    )  # fmt: skip
    parts = write_parts(base.data, tmp_path / "models/photos/splits.jsonl")
    base = base.model_copy(update={"data": parts.laboratory})
    for one in (trial(0), trial(1, **{"rebalance.method": "lda"})):
        found = run(recipe_of(one, 7, base), Context(seed=7))["evaluation"]
        save_artifact(found, tmp_path / "evaluations" / one.trial_id / "evaluation")
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "mlflow", "timm", "sklearn"])

    def sweep(storage: Path, moment: tuple[str, int, int] = ("", 0, 0)) -> int | None:
        process = context.Process(target=go_on, args=(storage, base, moment))
        process.start()
        process.join(150)
        return process.exitcode

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for storage in (whole, cut):
        write_sweep(storage, base, parts.served, tmp_path / "evaluations")
    assert sweep(whole) == 0
    kept: set[Path] = set()
    for moment in MOMENTS:
        assert sweep(cut, moment) == (130 if moment[2] == INTERRUPT else -KILL), moment
        now = set((cut / "stages").rglob("manifest.json"))
        assert kept <= now, moment
        kept = now
    assert sweep(cut) == 0
    assert {file.parent.name for file in kept} == {
        file.parent.name for file in (whole / "stages").rglob("manifest.json")
    }

    assert facts(cut) == facts(whole)
    for storage in (whole, cut):
        registry = Registry(tracking_uri(None, storage))
        assert registry.versions("photos") == ["1"]
        assert registry.aliases("photos") == {"champion": "1"}
        client = registry._client
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(ids)
        names = Counter(r.data.tags.get("orchestrator.trial_id", "sweep") for r in runs)
        assert names == {"sweep": 1, "trial-0001-service": 1}
        (service,) = [r for r in runs if r.data.tags.get("orchestrator.role") == "service"]
        assert service.info.run_id == client.get_model_version("photos", "1").run_id
        assert service.info.status == "FINISHED"
        for name in service.data.metrics:
            assert len(client.get_metric_history(service.info.run_id, name)) == 1, name
    gates = SweepRecord.load(cut / "sweeps/s").promotion.gates  # type: ignore[union-attr]
    assert not any("version 1" in gate.reason for gate in gates)  # not compared with itself
