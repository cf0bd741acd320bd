"""What `fit` can be told, and times as people write them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from orchestrator.options import DEFAULT_STORAGE, check_name, name_of_folder
from trainables.data.source_names import PRIOR_FILE
from trainables.errors import ConfigError

Metric = Literal["balanced", "accuracy", "worst-class"]
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
LEAST_SECONDS = 10.0
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)")


class FitOptions(BaseModel):
    """What ``fit`` can be told; every field but the first is an option of the command.

    Args:
        photos: Folder with a folder of images per class.
        backbone: A name of timm, a folder or file of weights, or ``NAME=FILE``; empty for the
            usual one of this machine; ``none`` for a small network from scratch.
        seconds: Time after which no further family of variants is begun, and to which the epochs of
            a training are cut; ``None``: no limit.
        deeper: Fine-tune the backbone too; it serves if that is better beyond noise.
        metric: What the winner is chosen by.
        expect: How often each class is expected: ``natural`` (as in the photos), ``balanced``, or a
            YAML or JSON file with a number for each class.
        false_alarm: Share of photos of known classes that are called unknown.
        groups: Table or pattern of the user's own groups of images.
        labels: Table that corrects labels.
        model: Name of the registered model; empty for that of the folder.
        storage: Where results live.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    photos: Path
    backbone: str = ""
    seconds: Annotated[float, Field(ge=LEAST_SECONDS)] | None = None
    deeper: bool = False
    metric: Metric = "balanced"
    expect: str = "natural"
    false_alarm: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    groups: str = ""
    labels: Path | None = None
    model: Annotated[str, AfterValidator(lambda name: name and check_name("--model", name))] = ""
    storage: str = DEFAULT_STORAGE

    @property
    def prior(self) -> str:
        """What is expected, as the setting ``score.prior``."""
        if self.expect in ("natural", "balanced"):
            return self.expect
        return f"{PRIOR_FILE}{Path(self.expect).expanduser().resolve()}"

    @property
    def words(self) -> str:
        """The command that asks for it, without model, storage and time, as a shell takes it.

        Example:
            >>> FitOptions(photos=Path("my pets"), metric="accuracy", false_alarm=0.1).words
            "fit 'my pets' --metric accuracy --false-alarm 0.1"
        """
        names = ("backbone", "metric", "expect", "false_alarm", "groups", "labels")
        usual = {name: type(self).model_fields[name].default for name in names}
        given = {name: getattr(self, name) for name in names}
        told = [
            f" --{name.replace('_', '-')} {shlex.quote(str(value))}"
            for name, value in given.items()
            if value != usual[name]
        ]
        return f"fit {shlex.quote(str(self.photos))}{''.join(told)}"

    @property
    def model_name(self) -> str:
        """The name of the registered model: what was asked for, else the folder's."""
        return self.model or name_of_folder(self.photos)


def parse_seconds(text: str) -> float:
    """Return a time in seconds: a number of minutes, or a number with its unit s, m or h.

    Raises:
        ConfigError: It is none, or shorter than 10 seconds.

    Example:
        >>> parse_seconds("20m"), parse_seconds("90s"), parse_seconds("1.5h"), parse_seconds("2")
        (1200.0, 90.0, 5400.0, 120.0)
    """
    found = _TIME.fullmatch(text.strip().casefold())
    seconds = float(found[1]) * UNITS[found[2] or "m"] if found else 0.0
    if seconds < LEAST_SECONDS:
        raise ConfigError(
            f"--time: must be a number with s, m or h, at least {LEAST_SECONDS:.0f}s, such as 20m; "
            f"received '{text}'"
        )
    return seconds
