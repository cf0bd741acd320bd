"""``python -m trainables experiments/x.yaml``: one recipe in this process, metrics as JSON."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from trainables.lazy import defer_imports, load_deferred

defer_imports()  # a typing error in the configuration is answered before torch is loaded

from trainables.errors import ConfigError  # noqa: E402
from trainables.experiment import Experiment, load_experiment  # noqa: E402
from trainables.settings import dump_yaml  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Run one recipe and return the exit status: 0 done, 2 a configuration error."""
    parser = argparse.ArgumentParser(prog="python -m trainables", description=__doc__)
    parser.add_argument("experiment", help="YAML file; see experiments/")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="sets")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto = cuda if any")
    parser.add_argument("--out", type=Path, help="folder for results (resolved recipe, artifacts)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        experiment = load_experiment(options.experiment, options.sets)
        load_deferred()
        metrics = run_recipe(experiment, options.device, options.out)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(json.dumps(metrics, indent=1, sort_keys=True) + "\n")
    return 0


def run_recipe(experiment: Experiment, device: str, out: Path | None) -> dict[str, float]:
    """Run all stages in this process; with ``out`` keep the recipe, the artifacts and metrics."""
    import torch

    from trainables.artifacts import save_artifact
    from trainables.context import Context
    from trainables.data import build_views
    from trainables.pipeline import plan, run

    plan(experiment)  # refuse what cannot run before data is read
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    log = logging.getLogger("trainables")
    context = Context(
        device=torch.device(chosen),
        seed=experiment.seed,
        report=lambda metrics, step: log.info("%4d  %s", step, _line(metrics)),
    )
    views = build_views(experiment.data)
    artifacts = run(experiment, context, views=views)
    metrics: dict[str, float] = artifacts["evaluation"].metrics
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "experiment.yaml").write_text(dump_yaml(experiment), encoding="utf-8")
        (out / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True))
        (out / "data.json").write_text(json.dumps(views.summary, indent=1, sort_keys=True))
        for name in set(artifacts) - set(views._fields):
            save_artifact(artifacts[name], out / name)
    return metrics


def _line(metrics: Mapping[str, float]) -> str:
    """Return metrics as one line of text."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


if __name__ == "__main__":
    sys.exit(main())
