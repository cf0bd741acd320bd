"""Small exported models, trained for real, once per process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from mlflow import MlflowClient

from orchestrator.execute import cached_views, export_model
from trainables.data import Views
from trainables.experiment import Experiment, load_experiment
from trainables.inference import describe_model
from trainables.settings import assign

ROOT = Path(__file__).parents[2]
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
def exported(seed: int = 0, *sets: str) -> Path:
    """Return the folder of a model; do not change it."""
    experiment = recipe(seed, *sets)
    folder = _root() / experiment.digest()[:16]
    storage = str(_root() / "storage")
    export_model(experiment.model_dump(mode="json"), {}, storage, folder)
    describe_model(folder, cached_views(experiment.data))
    return folder


def new_run(uri: str, root: Path) -> str:
    """Return the id of a new MLflow run whose artifacts go below ``root``."""
    client = MlflowClient(uri, uri)
    found = client.get_experiment_by_name("models")
    made = found or client.create_experiment("models", (root / "artifacts").as_uri())
    experiment = found.experiment_id if found else made
    return str(client.create_run(experiment).info.run_id)
