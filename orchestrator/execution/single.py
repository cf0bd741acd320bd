"""Execution of one recipe for ``orchestrator run``, in this process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.experiment import Experiment


def run_recipe(experiment: Experiment, storage: str) -> str:
    """Run a recipe through the stage store, save its metrics, and return them as JSON.

    Args:
        experiment: The recipe.
        storage: Storage of the stage results. The resolved recipe, its metrics, and what they were
            computed with are saved in ``<storage>/recipes/<digest>/``.

    Raises:
        ConfigError: The recipe cannot run, or its loss became NaN or infinite.
    """
    import torch

    from orchestrator.execution.execute import execute
    from orchestrator.execution.progress import ProgressMeter, told
    from orchestrator.options import local_folder
    from orchestrator.search.recipe_paths import recipe_digest
    from orchestrator.store.stage_store import StageStore
    from trainables.context import Context
    from trainables.errors import ConfigError
    from trainables.settings import dump_yaml
    from trainables.threads import computed_with
    from trainables.training.loop import NonFiniteLossError

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    meter = ProgressMeter(experiment, experiment.name)
    context = Context(
        device=device, seed=experiment.seed, report=meter.report, progress=meter.count
    )
    try:
        with told(meter):
            outcome = execute(experiment, StageStore(storage), context, begun=meter.begin)
    except NonFiniteLossError as error:
        raise ConfigError(str(error)) from None
    text = json.dumps(outcome.metrics, indent=1, sort_keys=True)
    folder = local_folder(storage) / "recipes" / recipe_digest(experiment)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(dump_yaml(experiment), encoding="utf-8")
    (folder / "metrics.json").write_text(text, encoding="utf-8")
    facts = json.dumps(computed_with(device), indent=1, sort_keys=True)
    (folder / "environment.json").write_text(facts, encoding="utf-8")
    return text
