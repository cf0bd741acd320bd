"""One recipe through the stage store, in this process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.experiment import Experiment


def run_recipe(experiment: Experiment, storage: str) -> str:
    """Run a recipe, reuse stored stages, keep the resolved recipe, and return metrics as JSON.

    Args:
        experiment: The recipe.
        storage: Storage of the stage results; the recipe and its metrics go to
            ``<storage>/recipes/<digest>/``.
    """
    import torch

    from orchestrator.execute import execute
    from orchestrator.options import local_folder
    from orchestrator.store import StageStore
    from trainables.context import Context
    from trainables.settings import dump_yaml

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    context = Context(device=device, seed=experiment.seed)
    outcome = execute(experiment, StageStore(storage), context)
    text = json.dumps(outcome.metrics, indent=1, sort_keys=True)
    folder = local_folder(storage) / "recipes" / experiment.digest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(dump_yaml(experiment), encoding="utf-8")
    (folder / "metrics.json").write_text(text, encoding="utf-8")
    return text
