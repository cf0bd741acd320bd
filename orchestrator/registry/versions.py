"""Model versions and their aliases in the MLflow registry."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.registry.packaging import is_model, package
from orchestrator.registry.version_lookup import MODEL_PATH, no_model, number_of, the_one
from orchestrator.tracking.mlflow_calls import quoted
from orchestrator.tracking.mlflow_client import connect
from trainables.errors import ConfigError
from trainables.former_names import current_metric
from trainables.inference.card import CARD_FILE, Card, read_card

if TYPE_CHECKING:
    from trainables.inference.outcomes import Outcomes

METRICS_FILE = "registry_metrics.json"
DIGEST_TAG = "orchestrator.digest"
OUTCOMES_FILE, BASE_FILE = "outcomes.parquet", "base_outcomes.parquet"  # of a model's folder
TABLES_TAG = "orchestrator.tables"  # which of them a version has
LAYOUT_TAG = "orchestrator.layout"  # "mlflow": folder inside an MLflow model; "plain": the folder


def open_aside(tracker_uri: str) -> Future[Registry]:
    """Open a registry in a thread, because importing MLflow takes seconds."""
    return ThreadPoolExecutor(1, "registry").submit(Registry, tracker_uri)


class Registry:
    """Registers versions of models, sets their aliases, and downloads them.

    A version is a folder (safetensors and JSON) in the artifacts of the run that made it. An
    exported model is stored as an MLflow model, so that MLflow can serve it. Unlike the tracker,
    the registry calls MLflow directly and raises its errors.

    Args:
        tracker_uri: MLflow's address.
    """

    def __init__(self, tracker_uri: str) -> None:
        self.uri = tracker_uri
        self._client: Any = connect(tracker_uri)

    def register(
        self,
        model: str,
        folder: Path,
        run_id: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        description: str = "",
    ) -> str:
        """Store a folder as a version of ``model``; the same folder of a run is stored once.

        Args:
            model: Registered name, created if it is new.
            folder: Folder to store.
            run_id: MLflow run that made the folder; the run must exist in MLflow.
            metrics: Metrics to store beside the folder; `metrics` returns them.
            tags: Tags of the version.
            description: Text of the version in Markdown, which MLflow shows.

        Raises:
            FileNotFoundError: The folder does not exist or is empty.
        """
        digest = folder_digest(folder)
        self._ensure_model(model)
        found = self._search(f"name = '{model}' and tags.`{DIGEST_TAG}` = '{digest}'")
        for version in found:
            if version.run_id == run_id:
                return str(version.version)
        path = f"model-{digest[:12]}"
        with tempfile.TemporaryDirectory() as draft:
            staged = Path(draft) / "model"
            if is_model(folder):
                package(folder, staged)
            else:
                shutil.copytree(folder, staged)
            (staged / METRICS_FILE).write_text(json.dumps(dict(metrics), indent=1, sort_keys=True))
            self._client.log_artifacts(run_id, str(staged), path)
        source = f"{self._client.get_run(run_id).info.artifact_uri}/{path}"
        created = self._client.create_model_version(
            model,
            source,
            run_id,
            tags={**tags, **_own_tags(folder, digest)},
            description=description,
        )
        return str(created.version)

    def only_model(self) -> str:
        """Return the name of the only model that has a version.

        Raises:
            ConfigError: There is none, or there are several.
        """
        return the_one(self._names())

    def _names(self) -> set[str]:
        return {str(version.name) for version in self._search("")}

    def alias(self, model: str, alias: str) -> str | None:
        """Return the version of an alias; ``None`` if the model or the alias does not exist."""
        registered = self._get_model(model)
        version = registered.aliases.get(alias) if registered is not None else None
        return None if version is None else str(version)

    def aliases(self, model: str) -> dict[str, str]:
        """Return all aliases of a model with their versions."""
        registered = self._get_model(model)
        return {} if registered is None else {k: str(v) for k, v in registered.aliases.items()}

    def versions(self, model: str) -> list[str]:
        """Return the versions of a model, oldest first; empty if the model does not exist."""
        return sorted((str(v.version) for v in self._search(f"name = '{model}'")), key=int)

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Move an alias to a version."""
        self._client.set_registered_model_alias(model, alias, version)

    def delete_alias(self, model: str, alias: str) -> None:
        """Remove an alias, if it exists."""
        if self.alias(model, alias) is not None:
            self._client.delete_registered_model_alias(model, alias)

    def version_tags(self, model: str, version: str) -> dict[str, str]:
        """Return the tags of a version."""
        return dict(self._client.get_model_version(model, version).tags)

    def set_version_tags(self, model: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(model, version, key, value)

    def find_run(self, tags: Mapping[str, str]) -> str | None:
        """Return the id of the run with these tags in any experiment, ``None`` if there is none."""
        wanted = " and ".join(f"tags.`{name}` = '{quoted(tags[name])}'" for name in tags)
        experiments = [found.experiment_id for found in self._client.search_experiments()]
        runs = self._client.search_runs(experiments, wanted, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def run_id(self, model: str, version: str) -> str:
        """Return the run that made a version."""
        return str(self._client.get_model_version(model, version).run_id)

    def experiment_id(self, run_id: str) -> str:
        """Return the MLflow experiment of a run."""
        return str(self._client.get_run(run_id).info.experiment_id)

    def metrics(self, model: str, version: str) -> dict[str, float]:
        """Return the metrics that were stored with a version.

        Raises:
            ConfigError: Their file is damaged.
        """
        with tempfile.TemporaryDirectory() as draft:
            path = self._fetch(model, version, Path(draft), METRICS_FILE)
            try:
                values = json.loads(path.read_bytes())
                return {current_metric(name): float(value) for name, value in values.items()}
            except (ValueError, TypeError, AttributeError):
                raise ConfigError(
                    f"version {version} of '{model}': {METRICS_FILE} is damaged"
                ) from None

    def card(self, model: str, version: str) -> Card | None:
        """Return a version's model card; ``None`` if the version is not an exported model."""
        inside = self._inside(model, version)
        if inside != MODEL_PATH:
            return None
        with tempfile.TemporaryDirectory() as draft:
            path = self._fetch(model, version, Path(draft), f"{inside.as_posix()}/{CARD_FILE}")
            return read_card(path.parent)

    def outcomes(self, model: str, version: str, file: str = OUTCOMES_FILE) -> Outcomes | None:
        """Return a version's table of outcomes (or its base recipe's); ``None`` without one.

        Args:
            model: Registered name.
            version: Number of the version.
            file: ``OUTCOMES_FILE`` or ``BASE_FILE`` of `trainables.inference.outcomes`.

        Raises:
            ConfigError: The table is damaged, or of a newer format.
        """
        from trainables.inference.outcomes import load_outcomes

        if file not in self.version_tags(model, version).get(TABLES_TAG, "").split():
            return None
        inside = self._inside(model, version).as_posix()
        with tempfile.TemporaryDirectory() as draft:
            path = f"{inside}/{file}".removeprefix("./")
            return load_outcomes(self._fetch(model, version, Path(draft), path))

    def download(self, model: str, version_or_alias: str, folder: Path) -> Path:
        """Download the folder of a version to ``folder`` and return its path.

        Args:
            model: Registered name.
            version_or_alias: ``"3"`` or ``"champion"``.
            folder: Target; an existing folder is replaced.

        Raises:
            LookupError: The model, version or alias does not exist.
        """
        numbers = self.versions(model)
        if not numbers:
            raise LookupError(no_model(model, self._names()))
        version = number_of(version_or_alias, model, numbers, self.aliases(model))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
            inside = self._inside(model, version).as_posix()
            fetched = self._fetch(model, version, Path(draft), inside.removeprefix("."))
            if folder.exists():
                shutil.rmtree(folder)
            shutil.move(fetched, folder)
        return folder

    def _inside(self, model: str, version: str) -> Path:
        """Return the path of the registered folder inside a version."""
        is_packaged = self.version_tags(model, version).get(LAYOUT_TAG) == "mlflow"
        return MODEL_PATH if is_packaged else Path()

    def _fetch(self, model: str, version: str, folder: Path, path: str) -> Path:
        """Download a version's folder, or one file of it."""
        from mlflow.artifacts import download_artifacts

        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        source = self._client.get_model_version_download_uri(model, version)
        uri = f"{source}/{path}" if path else source
        fetched = download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=self.uri)
        return Path(fetched)

    def _ensure_model(self, model: str) -> None:
        """Create the registered model, if it does not exist."""
        if self._get_model(model) is None:
            self._client.create_registered_model(model)

    def _get_model(self, model: str) -> Any | None:
        """Return the registered model; ``None`` if it does not exist."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(model)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _search(self, text: str) -> list[Any]:
        """Return all model versions that match a filter."""
        found, token = [], None
        while True:
            page = self._client.search_model_versions(text, max_results=1000, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return found


def _own_tags(folder: Path, digest: str) -> dict[str, str]:
    """Return the tags by which this module finds what is in a version's folder."""
    tables = [name for name in (OUTCOMES_FILE, BASE_FILE) if (folder / name).is_file()]
    layout = "mlflow" if is_model(folder) else "plain"
    found = {DIGEST_TAG: digest, LAYOUT_TAG: layout, TABLES_TAG: " ".join(tables)}
    return {name: value for name, value in found.items() if value}


def folder_digest(folder: Path) -> str:
    """Return a SHA-256 (hex) of the names and contents of all files below a folder.

    Raises:
        FileNotFoundError: The folder has no files.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise FileNotFoundError(f"model folder {folder} has no files")
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()
