"""Small photos and a small backbone for fits that take seconds, and a fit that is cut short."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from trainables.methods.rebalancers import Rebalancer

FEW = 9  # variants
NAMES = ("zero", "one", "two", "three", "four", "five", "six")


def write_photos(folder: Path, sizes: Mapping[str, int], first: int = 0) -> Path:
    """Write handwritten digits as PNG files of 32 by 32 pixels, a folder per class.

    Args:
        folder: Gets a folder per class.
        sizes: Name of each class to the number of its images.
        first: Images of each class to pass over.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for name, size in sizes.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        own = images[labels == NAMES.index(name)][first : first + size]
        for number, pixels in enumerate(own, first):
            square = (pixels.reshape(8, 8) * 15.9).astype(np.uint8).repeat(4, 0).repeat(4, 1)
            Image.fromarray(square).save(place / f"{number:02d}.png")
    return folder


def write_weights(folder: Path) -> Path:
    """Write a small network of timm with random weights, as `--backbone FOLDER` takes it."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_resnet")
    save_file(network.state_dict(), folder / "model.safetensors")
    size: dict[str, Any] = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"interpolation": "bilinear", "crop_pct": 1.0, **size}
    text = json.dumps({"architecture": "test_resnet", "pretrained_cfg": config})
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


def few_variants() -> list[Rebalancer]:
    """Return the first of the variants that a fit tries: four families, in seconds."""
    from orchestrator.fitting.trying.variants import list_variants

    return list_variants(FEW)


def run_cut_short(words: list[str], log: Path, moment: str, call: int, number: int) -> None:
    """Run a command of the orchestrator in this process, which gets a signal on its way.

    Args:
        words: The command.
        log: File of all that it prints.
        moment: ``module:name`` of a function; empty: nothing happens.
        call: Which of its calls does not begin.
        number: The signal.
    """
    from orchestrator.cli import main as cli
    from orchestrator.fitting import job
    from trainables import threads

    # torch is loaded, so waiting threads would spin; see `trainables.threads`
    threads.usable_cores = lambda most=8: 1  # type: ignore[assignment]
    job.list_variants = few_variants  # type: ignore[assignment]
    calls = 0
    if moment:
        module, _, name = moment.partition(":")
        holder, *inner = name.split(".")
        place: Any = importlib.import_module(module)
        for part in (holder, *inner)[:-1]:
            place = getattr(place, part)
        attribute = (holder, *inner)[-1]
        function = getattr(place, attribute)

        def counted(*args: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), number)
            return function(*args, **named)

        setattr(place, attribute, counted)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (
        open(log, "w", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            cli.main(words)
        except SystemExit as left:
            file.flush()
            sys.exit(left.code)
