"""``python -m trainables experiments/x.yaml``: one recipe in this process, metrics as JSON.

With ``--seeds 0,1,2`` it runs on each seed, one after the other, and prints metrics by seed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.lazy import defer_imports, load_deferred

defer_imports()  # a typing error in the configuration is answered before torch is loaded

from trainables.errors import ConfigError, readable  # noqa: E402
from trainables.experiment import Experiment, load_experiment  # noqa: E402
from trainables.settings import dump_yaml, parse_seeds  # noqa: E402
from trainables.threads import choose_threads, computed_with  # noqa: E402

COUNT_SECONDS = 30.0  # between two lines on images of a stage

if TYPE_CHECKING:
    import torch

    from trainables.context import Context
    from trainables.data.views import Views


def main(arguments: list[str] | None = None) -> int:
    """Run one recipe and return the exit status: 0 done, 2 a configuration error."""
    parser = argparse.ArgumentParser(prog="python -m trainables", description=__doc__)
    parser.add_argument("experiment", help="YAML file; see experiments/")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="sets")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto = cuda if any")
    parser.add_argument("--seeds", default="", help="other seeds than the recipe's, with commas")
    parser.add_argument("--threads", default="1", help="default 1; figures depend on the number")
    parser.add_argument("--out", type=Path, help="folder for results (resolved recipe, artifacts)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        experiment = load_experiment(options.experiment, options.sets)
        seeds = parse_seeds(options.seeds)
        _make_folder(options.out)
        threads = _threads(options.threads)
        choose_threads(threads)
        load_deferred()
        choose_threads(threads)  # by itself torch takes no more than there are cores
        folders = {seed: options.out and options.out / f"seed-{seed}" for seed in seeds}
        found = run_seeds(experiment, folders or {experiment.seed: options.out}, options.device)
    except ConfigError as error:
        sys.stderr.write(f"error: {readable(str(error))}\n")
        return 2
    metrics = found if seeds else found[experiment.seed]
    sys.stdout.write(json.dumps(metrics, indent=1, sort_keys=True) + "\n")
    return 0


def run_seeds(
    experiment: Experiment, folders: Mapping[int, Path | None], device: str
) -> dict[int, dict[str, float]]:
    """Run a recipe on one seed after the other, on data that is cut once; return metrics by seed.

    Args:
        experiment: The recipe.
        folders: By seed, the folder for recipe, artifacts and metrics; ``None`` keeps nothing.
        device: Name of the device, or ``auto``.

    Raises:
        ConfigError: The recipe cannot run, or its loss became NaN or infinite.
    """
    from trainables.data.views import build_views
    from trainables.pipeline import Step, chosen_precision, plan, run, run_step, with_precision
    from trainables.settings import assign
    from trainables.training.loop import NonFiniteLossError

    plan(experiment)  # refuse what cannot run before data is read
    chosen, found = _device(device), {}
    logging.getLogger("trainables").info("computed with %s", _facts(chosen))
    views = build_views(experiment.data)
    precision: dict[str, str] = {}

    def execute(step: Step, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:
        decided = with_precision(step, inputs, context)
        precision.update(chosen_precision(decided))
        return run_step(decided, inputs, context)

    for seed, folder in folders.items():
        context = _context(seed, chosen, named=len(folders) > 1)
        try:
            artifacts = run(experiment, context, views=views, executor=execute)
        except NonFiniteLossError as error:
            raise ConfigError(str(error)) from None
        if folder is not None:
            recipe = assign(experiment, {"seed": seed, **precision})
            _save(recipe, artifacts, views, folder)
            _write_json(computed_with(chosen), folder / "environment.json")
        found[seed] = artifacts["evaluation"].metrics
    return found


def _device(name: str) -> torch.device:
    """Return the device of a name: ``auto`` is a GPU if there is one.

    Raises:
        ConfigError: There is no such device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"--device: '{name}' cannot be used: {reason}") from None


def _make_folder(out: Path | None) -> None:
    """Make the folder for results before anything runs.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: cannot write to '{out}': {error.strerror}") from None


def _context(seed: int, device: torch.device, *, named: bool) -> Context:
    """Return a context that writes each report as a line, which names the seed if it is asked."""
    from trainables.context import Context

    log, start = logging.getLogger("trainables"), f"seed {seed}  " if named else ""

    def report(metrics: Mapping[str, float], step: int) -> None:
        log.info("%s%4d  %s", start, step, _line(metrics))

    return Context(device=device, seed=seed, report=report, progress=_Counter(log, start))


class _Counter:
    """Writes how many images a stage is done with, and the time left, every half minute."""

    def __init__(self, log: logging.Logger, start: str) -> None:
        self._log, self._start = log, start
        self._first, self._since, self._told = 0, 0.0, 0.0

    def __call__(self, done: int, images: int) -> None:
        """Note the images that are done with."""
        now = time.monotonic()
        if done <= self._first or not self._since:  # another stage
            self._first, self._since, self._told = done, now, now
        elif now - self._told > COUNT_SECONDS:
            left = (now - self._since) / (done - self._first) * (images - done)
            text = "%s%d of %d images, about %d s left"
            self._log.info(text, self._start, done, images, left)
            self._told = now


def _save(experiment: Experiment, artifacts: Mapping[str, Any], views: Views, out: Path) -> None:
    """Write the recipe, the artifacts and the metrics into a folder."""
    from trainables.artifacts import save_artifact

    out.mkdir(parents=True, exist_ok=True)
    metrics = artifacts["evaluation"].metrics
    (out / "experiment.yaml").write_text(dump_yaml(experiment), encoding="utf-8")
    _write_json(metrics, out / "metrics.json")
    _write_json(views.summary, out / "data.json")
    for name in set(artifacts) - set(views._fields):
        save_artifact(artifacts[name], out / name)


def _write_json(values: Mapping[str, Any], target: Path) -> None:
    target.write_text(json.dumps(values, indent=1, sort_keys=True), encoding="utf-8")


def _facts(device: torch.device) -> str:
    """Return what figures depend on beside the recipe, as one line."""
    return ", ".join(f"{name} {value}" for name, value in computed_with(device).items())


def _threads(text: str) -> int:
    """Read a number of threads.

    Raises:
        ConfigError: It is no whole number from 1 to 9999.
    """
    if not text.isdecimal() or len(text) > 4 or int(text) < 1:
        raise ConfigError(f"--threads: allowed: 1 to 9999; received {text}")
    return int(text)


def _line(metrics: Mapping[str, float]) -> str:
    """Return metrics as one line of text."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


if __name__ == "__main__":
    sys.exit(main())
