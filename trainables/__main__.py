"""``python -m trainables experiments/x.yaml``: one recipe in this process, metrics as JSON.

With ``--seeds 0,1,2`` it runs on each seed; on a GPU they train as one if they can.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.lazy import defer_imports, load_deferred

defer_imports()  # a typing error in the configuration is answered before torch is loaded

from trainables.errors import ConfigError  # noqa: E402
from trainables.experiment import Experiment, load_experiment  # noqa: E402
from trainables.settings import dump_yaml  # noqa: E402

if TYPE_CHECKING:
    import torch

    from trainables.context import Context
    from trainables.data import Views


def main(arguments: list[str] | None = None) -> int:
    """Run one recipe and return the exit status: 0 done, 2 a configuration error."""
    parser = argparse.ArgumentParser(prog="python -m trainables", description=__doc__)
    parser.add_argument("experiment", help="YAML file; see experiments/")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="sets")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto = cuda if any")
    parser.add_argument("--seeds", default="", help="other seeds than the recipe's, with commas")
    parser.add_argument("--out", type=Path, help="folder for results (resolved recipe, artifacts)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        experiment = load_experiment(options.experiment, options.sets)
        seeds = _seeds(options.seeds)
        load_deferred()
        if seeds:
            metrics: object = run_on_seeds(experiment, seeds, options.device, options.out)
        else:
            metrics = run_recipe(experiment, options.device, options.out)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(json.dumps(metrics, indent=1, sort_keys=True) + "\n")
    return 0


def run_recipe(experiment: Experiment, device: str, out: Path | None) -> dict[str, float]:
    """Run all stages in this process; with ``out`` keep the recipe, the artifacts and metrics."""
    (metrics,) = _run(experiment, [experiment.seed], device, [out])
    return metrics


def run_on_seeds(
    experiment: Experiment, seeds: list[int], device: str, out: Path | None
) -> dict[int, dict[str, float]]:
    """Run all stages on each seed; what ``out`` keeps is in a folder for each."""
    folders = [None if out is None else out / f"seed-{seed}" for seed in seeds]
    return dict(zip(seeds, _run(experiment, seeds, device, folders), strict=True))


def _run(
    experiment: Experiment, seeds: list[int], device: str, folders: list[Path | None]
) -> list[dict[str, float]]:
    import torch

    from trainables.data import build_views
    from trainables.pipeline import plan
    from trainables.seeds import run_seeds
    from trainables.settings import assign

    plan(experiment)  # refuse what cannot run before data is read
    there = torch.device(_device(device))
    contexts = [_context(seed, there, named=len(seeds) > 1) for seed in seeds]
    views = build_views(experiment.data)
    runs = run_seeds(experiment, contexts, views=views, fuse=there.type == "cuda")
    found = []
    for seed, folder, artifacts in zip(seeds, folders, runs, strict=True):
        if folder is not None:
            _save(assign(experiment, {"seed": seed}), artifacts, views, folder)
        found.append(artifacts["evaluation"].metrics)
    return found


def _device(name: str) -> str:
    """Return the device of a name: ``auto`` is a GPU if there is one."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _context(seed: int, device: torch.device, *, named: bool) -> Context:
    """Return a context that writes each report as a line, which names the seed if it is asked."""
    from trainables.context import Context

    log, start = logging.getLogger("trainables"), f"seed {seed}  " if named else ""

    def report(metrics: Mapping[str, float], step: int) -> None:
        log.info("%s%4d  %s", start, step, _line(metrics))

    return Context(device=device, seed=seed, report=report)


def _save(experiment: Experiment, artifacts: Mapping[str, Any], views: Views, out: Path) -> None:
    """Write the recipe, the artifacts and the metrics into a folder."""
    from trainables.artifacts import save_artifact

    out.mkdir(parents=True, exist_ok=True)
    metrics = artifacts["evaluation"].metrics
    (out / "experiment.yaml").write_text(dump_yaml(experiment), encoding="utf-8")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True))
    (out / "data.json").write_text(json.dumps(views.summary, indent=1, sort_keys=True))
    for name in set(artifacts) - set(views._fields):
        save_artifact(artifacts[name], out / name)


def _seeds(text: str) -> list[int]:
    """Read whole numbers >= 0 with commas, each once.

    Raises:
        ConfigError: A word is none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdigit() for word in words):
        raise ConfigError(
            f"--seeds: allowed: whole numbers with commas, e.g. 0,1,2; received {text}"
        )
    return list(dict.fromkeys(int(word) for word in words))


def _line(metrics: Mapping[str, float]) -> str:
    """Return metrics as one line of text."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


if __name__ == "__main__":
    sys.exit(main())
