"""Names in recipes: of sources and their columns, and of classes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from trainables.errors import short
from trainables.settings import Settings

FOLDER, TABLE = "folder:", "table:"  # the source is a folder or table of one's own
WEIGHTS = "local-dir:"  # pretrained weights in a folder
PRIOR_FILE = "file:"  # how often each class is expected, in a file


def own_kind(source: object) -> str:
    """Return how the name of a source of one's own begins; empty for a named data set.

    Example:
        >>> own_kind("folder:photos"), own_kind("table:photos.csv"), own_kind("cifar10")
        ('folder:', 'table:', '')
    """
    kinds = (kind for kind in (FOLDER, TABLE) if isinstance(source, str))
    return next((kind for kind in kinds if str(source).startswith(kind)), "")


def default_profile(source: object) -> str:
    """Return the profile of a recipe that sets none: own images keep their class sizes.

    Example:
        >>> default_profile("folder:photos"), default_profile("cifar10")
        ('natural', 'exponential')
    """
    return "natural" if own_kind(source) else "exponential"


def with_last_names(value: Any) -> Any:
    """Return plain values, nested or not, with the last name in place of each path to elsewhere.

    Example:
        >>> with_last_names({"source": "folder:/home/me/flowers", "root": "data", "seed": 1})
        {'source': 'folder:flowers', 'root': 'data', 'seed': 1}
        >>> with_last_names("local-dir:/home/me/weights")
        'local-dir:weights'
        >>> with_last_names("file:/home/me/expected.yaml")
        'file:expected.yaml'
        >>> with_last_names("../trunks/best.safetensors")
        'best.safetensors'
    """
    if isinstance(value, Mapping):
        return {key: with_last_names(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [with_last_names(inner) for inner in value]
    if not isinstance(value, str):
        return value
    kind = own_kind(value) or next((k for k in (WEIGHTS, PRIOR_FILE) if value.startswith(k)), "")
    path = value.removeprefix(kind)
    if kind or path.startswith(("/", "~", "./", "../")):
        return kind + (os.path.basename(os.path.normpath(path)) or path)
    return value


class Columns(Settings):
    """Columns of a table of images; ``null`` recognizes a column by its usual name.

    Args:
        path: Files, relative to the table's folder.
        label: Classes.
        split: Parts: train, val or test. An empty text takes no column for it.
        group: Images that stay together in each cut, such as shots of one animal. An empty text
            takes no column for it.
    """

    path: Annotated[str, Field(min_length=1)] | None = None
    label: Annotated[str, Field(min_length=1)] | None = None
    split: str | None = None
    group: str | None = None


def _number_or_names(value: Any) -> int | tuple[str, ...]:
    """Take a number of classes, or a list of their names, each once.

    Names may be whole numbers, and the list the text that `trainables.settings.flatten` gives.
    """
    if isinstance(value, str) and value.startswith("["):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, list | tuple) or not all(
        isinstance(name, str | int) and not isinstance(name, bool) and name != "" for name in value
    ):
        raise ValueError(
            "must be a whole number of at least 0, or a list of class names such as [daisy, rose]; "
            f"received {short(value)}"
        )
    names = tuple(str(name) for name in value)
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"names each class once; received '{twice[0]}' twice")
    return names


Classes = Annotated[int | tuple[str, ...], BeforeValidator(_number_or_names)]
