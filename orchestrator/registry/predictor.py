"""A registered version's model, loaded in this process.

The code that MLflow stored beside the weights is not run.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.registry.version_lookup import find_version, folder_of
from trainables.errors import ConfigError
from trainables.inference.model import Model, load_model

if TYPE_CHECKING:
    from orchestrator.registry.versions import Registry


def load_version(uri: str, model: str, version_or_alias: str, copies: Path) -> Model:
    """Load a version's model with the installed code instead of the code in the version.

    Args:
        uri: MLflow's address.
        model: Registered name.
        version_or_alias: ``"3"`` or ``"champion"``.
        copies: Folder for copies of versions whose files this machine cannot read in place.

    Raises:
        ConfigError: The model, version or alias does not exist, or is not an exported model.
    """
    found = find_version(uri, model, version_or_alias)
    folder = None if found is None else folder_of(found, copies)
    if folder is None:
        from orchestrator.registry.versions import Registry

        registry = Registry(uri)
        if found is None or not found.digest:
            return open_version(registry, model, version_or_alias)
        folder = registry.download(model, found.number, copies / found.digest)
    return load_model(folder)


def open_version(registry: Registry, model: str, version_or_alias: str) -> Model:
    """Load a version's model with the installed code instead of the code in the version.

    Raises:
        ConfigError: The model, version or alias does not exist, or is not an exported model.
    """
    with tempfile.TemporaryDirectory() as draft:
        try:
            folder = registry.download(model, version_or_alias, Path(draft) / "model")
        except LookupError as error:
            raise ConfigError(str(error.args[0])) from None
        return load_model(folder)
