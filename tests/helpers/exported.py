"""Small exported models, each trained once per process."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient

from orchestrator.execution.execute import export_model
from orchestrator.execution.store_executor import cached_views
from tests.helpers import ROOT
from trainables.data.views import Views
from trainables.experiment import Experiment, load_experiment
from trainables.inference.card import describe_model
from trainables.settings import assign

QUICK = (
    "data.image_size=8",
    "classify.training.epochs=4",
    "update.training.epochs=2",
    "score.threshold={known_recall: {keep: 0.8}}",
)


@cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="exported-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def recipe(seed: int = 0, *sets: str) -> Experiment:
    base = load_experiment(ROOT / "experiments" / "digits.yaml", [*QUICK, *sets])
    return assign(base, {"seed": seed, "data.world": "test"})


def views_of(seed: int = 0, *sets: str) -> Views:
    return cached_views(recipe(seed, *sets).data)


@cache
def exported(seed: int = 0, *sets: str, served: Literal["first", "updated"] = "updated") -> Path:
    """Return the folder of an exported model, which tests must not change."""
    experiment = recipe(seed, *sets)
    folder = _root() / f"{experiment.digest()[:16]}-{served}"
    storage = str(_root() / "storage")
    export_model(experiment.model_dump(mode="json"), {}, storage, folder, served)
    describe_model(folder, cached_views(experiment.data), served)
    return folder


def exported_before(folder: Path) -> Path:
    """Write a model of format 2, which had two classifiers, and return its folder."""
    shutil.copytree(exported(served="first"), folder)
    shutil.rmtree(folder / "reference")
    for name in ("backbone", "classifier"):
        shutil.copytree(exported() / name, folder / f"updated_{name}")
    card = json.loads((exported() / "model.json").read_text("utf-8"))
    for name in ("matched", "served", "pretrained_on"):
        del card[name]
    (folder / "model.json").write_text(json.dumps({**card, "format_version": 2}), "utf-8")
    return folder


def new_run(uri: str, root: Path) -> str:
    """Return the id of a new MLflow run with artifacts below ``root``."""
    client = MlflowClient(uri, uri)
    found = client.get_experiment_by_name("models")
    made = found or client.create_experiment("models", (root / "artifacts").as_uri())
    experiment = found.experiment_id if found else made
    return str(client.create_run(experiment).info.run_id)
