"""Files and folders that a recipe names: what they hold counts, not where they are.

A recipe keeps its user's words. Where recipes are compared or digested, the digest of the content
stands in place of each path; where a recipe is shown to others, the last name alone (see
`trainables.data.source_names.with_last_names`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel

from trainables.data.data_settings import Data
from trainables.data.source_names import WEIGHTS, own_kind
from trainables.data.sources import source_content
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.keys import file_digest
from trainables.methods.method import Method, path_mark
from trainables.settings import assign

SOURCE, UNRELATED, ROOT = "data.source", "data.stream.unrelated_source", "data.root"
ABSENT = "absent"
BACKBONE = "pretrain.backbone"  # may be a folder of weights


def content_of_paths(recipe: Experiment) -> dict[str, str]:
    """Return the digest of what each path of a recipe leads to, by dotted name of the setting.

    ``data.root`` stands for the files of the built-in sources that are read below it. A path that
    leads nowhere is ``absent``; settings that name no path are left out.

    Example:
        >>> content_of_paths(Experiment())
        {}
    """
    found = {name: file_digest(path) for name, path in _files(recipe, "")}
    data = recipe.data
    below_root: list[str] = []
    for name, source, classes in _sources(data):
        content = _content(source, data, with_classes=classes)
        if own_kind(source):
            found[name] = content
        elif content:
            below_root.append(content)
    if below_root:
        found[ROOT] = hashlib.sha256("".join(below_root).encode()).hexdigest()
    return found


def with_content(recipe: Experiment, content: Mapping[str, str]) -> Experiment:
    """Return a recipe with digests in place of its paths; an unused ``data.root`` is the default.

    Args:
        recipe: The recipe.
        content: What `content_of_paths` returned for it.
    """
    changes = {ROOT: Data().root, **content}
    for name in (SOURCE, UNRELATED):
        if name in content:
            own = recipe.data.source if name == SOURCE else recipe.data.stream.unrelated_source
            changes[name] = f"{own_kind(own)}{content[name]}"
    for name, path in _files(recipe, ""):
        if name in content:  # start and ending are a part of what a setting accepts
            start = WEIGHTS if name == BACKBONE else ""
            ending = "" if start else Path(path).suffix
            changes[name] = f"{start}{content[name]}{ending}"
    return assign(recipe, changes)


def recipe_digest(recipe: Experiment) -> str:
    """Return the digest of a recipe in which contents stand for paths.

    The same data in two folders, and one folder by two paths, give one digest. For recipes without
    paths it is `Settings.digest`.
    """
    return with_content(recipe, content_of_paths(recipe)).digest()


def changed_files(recipe: Experiment, before: Mapping[str, str]) -> list[str]:
    """Return the files of a recipe, as ``setting=value``, whose content is another than before."""
    return [
        f"{name}={path}"
        for name, path in _files(recipe, "")
        if before.get(name, file_digest(path)) != file_digest(path)
    ]


def _sources(data: Data) -> Iterator[tuple[str, str, bool]]:
    """Yield name, value and use as classes of the settings that name a data source."""
    yield SOURCE, data.source, True
    if data.stream.unrelated:
        own = bool(own_kind(data.stream.unrelated_source))
        yield UNRELATED, data.stream.unrelated_source, not own


def _content(source: str, data: Data, *, with_classes: bool) -> str:
    try:
        root, columns = Path(data.root), data.columns
        return source_content(source, root, with_classes=with_classes, columns=columns)
    except ConfigError:  # what reads it says what is wrong
        return ABSENT


def _files(settings: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield dotted name and path of each setting that is the path of a file."""
    for name, field in type(settings).model_fields.items():
        value, mark = getattr(settings, name), path_mark(field)
        if mark is not None and mark.path(value):
            yield f"{prefix}{name}", mark.path(value)
        elif isinstance(value, Method):
            yield from _files(value, f"{prefix}{name}.{value.name}.")
        elif isinstance(value, BaseModel):
            yield from _files(value, f"{prefix}{name}.")
