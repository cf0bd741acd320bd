"""Progress inside a trial: stage, epoch, loss and time left, told while it runs.

The process that computes puts it into the key-value store of Ray's head (one call every two
seconds), where the driver finds the progress of all machines. Short trials put nothing there.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from trainables.errors import readable
from trainables.experiment import Experiment

logger = logging.getLogger(__name__)

NAMESPACE = b"longtail-progress"
PUBLISH_SECONDS = 2.0
END_SECONDS = 2.0  # that the last call may take
LINE_SECONDS = 60.0  # between two lines of a run that prints to a pipe


class RunProgress(NamedTuple):
    """Where a run is: its stage and seconds left, in a training epoch and loss, else images."""

    label: str
    stage: str = ""
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    seconds_left: float | None = None
    done: int = 0
    images: int = 0

    def text(self) -> str:
        """Return the progress in words.

        Example:
            >>> RunProgress("trial 3", "classify", 12, 30, 0.4123, 95.0).text()
            'trial 3: classify, epoch 12 of 30, loss 0.412, about 2 min left'
            >>> RunProgress("trial 3", "extract", seconds_left=95.0, done=1200, images=20000).text()
            'trial 3: extract, 1,200 of 20,000 images, about 2 min left'
            >>> RunProgress("trial 3", "evaluate").text()
            'trial 3: evaluate'
        """
        parts = [f"{self.label}: {self.stage}" if self.stage else self.label]
        if self.epochs:
            parts.append(f"epoch {self.epoch} of {self.epochs}")
        if self.images:
            parts.append(f"{self.done:,} of {self.images:,} images")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3g}")
        if self.seconds_left is not None:
            parts.append(f"about {time_left(self.seconds_left)} left")
        return ", ".join(parts)


def time_left(seconds: float) -> str:
    """Return seconds as text for an estimate.

    Example:
        >>> time_left(42.3), time_left(95), time_left(7300)
        ('42 s', '2 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class ProgressMeter:
    """Follows the stages and the reports of one recipe; ``now`` is where it is.

    Args:
        recipe: The recipe, for the number of epochs.
        label: What runs, such as ``trial 3``.

    Example:
        >>> meter = ProgressMeter(Experiment(), "trial 3")
        >>> meter.begin("classify")
        >>> meter.report({"classify/loss": 1.5, "classify/lr": 0.1}, 2)
        >>> meter.now.text()
        'trial 3: classify, epoch 2 of 30, loss 1.5'
    """

    def __init__(self, recipe: Experiment, label: str) -> None:
        self._recipe = recipe
        self.now = RunProgress(label)
        self._training, self._first = "", (0, 0.0)  # the training's first report: epoch and time
        self._images, self._since = (0, 0), 0.0  # the extraction's first count: images done, of all

    def begin(self, stage: str) -> None:
        """Note that a stage begins."""
        self.now = RunProgress(self.now.label, stage)
        self._images = (0, 0)

    def count(self, done: int, images: int) -> None:
        """Note how many images of a stage are done with.

        Example:
            >>> meter = ProgressMeter(Experiment(), "trial 3")
            >>> meter.begin("extract")
            >>> meter.count(512, 20000)
            >>> meter.now.text()
            'trial 3: extract, 512 of 20,000 images'
        """
        time_now = time.monotonic()
        first, total = self._images
        if total != images or done <= first:
            self._images, self._since = (done, images), time_now
            first = done
        left = None
        if done > first:
            left = (time_now - self._since) / (done - first) * (images - done)
        label, stage = self.now.label, self.now.stage
        self.now = RunProgress(label, stage, seconds_left=left, done=done, images=images)

    def report(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Note an epoch's report, as stages give it to their context."""
        name = next((name for name in metrics if name.endswith("/loss")), "")
        time_now = time.monotonic()
        if name != self._training or epoch <= self._first[0]:
            self._training, self._first = name, (epoch, time_now)
        stage = (name or next(iter(metrics), "")).partition("/")[0]
        epochs = max(epochs_of(self._recipe, stage), epoch)
        first, since = self._first
        left = None
        if epoch > first:
            left = (time_now - since) / (epoch - first) * (epochs - epoch)
        loss = metrics.get(name)
        self.now = RunProgress(self.now.label, stage, epoch, epochs, loss, left)


def epochs_of(recipe: Experiment, stage: str) -> int:
    """Return the number of epochs that a stage trains; 0 for a stage that does not train.

    Example:
        >>> epochs_of(Experiment(), "update"), epochs_of(Experiment(), "score")
        (20, 0)
    """
    settings: Any = getattr(recipe, stage, None)
    phases = settings.phases() if hasattr(settings, "phases") else [settings]
    trainings = [getattr(phase, "training", None) for phase in phases]
    return sum(getattr(t, "until", 0) or t.epochs for t in trainings if t is not None)


class Ticker:
    """Calls a function every so many seconds, in a thread, while a block runs.

    Args:
        act: The function; when it fails, it is not called again.
        seconds: Time between two calls, and before the first.
    """

    def __init__(self, act: Callable[[], object], seconds: float) -> None:
        self._act, self._seconds = act, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="progress", daemon=True)

    def __enter__(self) -> Ticker:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, after a call that runs, if the call ends soon.

        A call to a Ray whose head has been killed would return only after a minute, when Ray ends
        this process.
        """
        self._ended.set()
        self._thread.join(END_SECONDS)

    def _work(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                self._act()
            except Exception as error:  # progress may not stop what it tells of
                logger.debug("progress is not shown any more: %s", error)
                return


def told(meter: ProgressMeter) -> Ticker:
    """Return a block in which a meter's progress is written to standard error every minute."""
    return Ticker(lambda: sys.stderr.write(f"{readable(meter.now.text())}\n"), LINE_SECONDS)


@contextmanager
def published(meter: ProgressMeter, sweep: str) -> Iterator[None]:
    """Publish a meter's progress for the sweep's driver while a block runs in a Ray worker."""
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    key = f"{sweep}/{meter.now.label}".encode()
    done: list[bool] = []

    def put() -> None:
        text = json.dumps(meter.now).encode()
        done.append(_internal_kv_put(key, text, namespace=NAMESPACE))

    try:
        with Ticker(put, PUBLISH_SECONDS):
            yield
    finally:
        if done:
            _internal_kv_del(key, namespace=NAMESPACE)


def read_published(sweep: str) -> list[RunProgress]:
    """Return the published progress of a sweep's runs, in the order of their labels."""
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

    keys = _internal_kv_list(f"{sweep}/".encode(), namespace=NAMESPACE)
    found = [_internal_kv_get(key, namespace=NAMESPACE) for key in sorted(keys)]
    return [RunProgress(*json.loads(text)) for text in found if text]


def forget_published(sweep: str) -> None:
    """Remove what killed workers of an earlier driver left on a cluster that goes on."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(f"{sweep}/".encode(), del_by_prefix=True, namespace=NAMESPACE)
