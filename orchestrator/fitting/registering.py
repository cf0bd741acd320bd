"""A fit in MLflow: its run, the version in the registry, and the verdict of the gates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.environment import environment
from orchestrator.options import local_folder
from orchestrator.records import PromotionRecord
from orchestrator.registry.comparison import LATENCY
from orchestrator.registry.floors import metric_of
from orchestrator.registry.gate_settings import choose_gates
from orchestrator.registry.promote import CHAMPION, PREVIOUS, promote
from orchestrator.tracking.mlflow_calls import log_params, log_rows
from orchestrator.tracking.mlflow_client import connect, ensure_experiment, tracking_uri

if TYPE_CHECKING:
    from orchestrator.fitting.fit_record import FitRecord
    from orchestrator.registry.versions import Registry
    from trainables.data.data_settings import Data

EXPERIMENT = "fit"
KIND_TAG, KEY_TAG = "orchestrator.kind", "orchestrator.fit"


class Recorder:
    """Records a fit in MLflow and its registry; what is there already is not made twice.

    Args:
        storage: Storage of the fit; MLflow's sqlite file is there unless ``MLFLOW_TRACKING_URI``
            names another one.
    """

    def __init__(self, storage: str) -> None:
        from orchestrator.registry.versions import Registry

        self.root = local_folder(storage)
        self.uri = tracking_uri(None, self.root)
        self._client: Any = connect(self.uri)
        self.registry: Registry = Registry(self.uri)

    def run_of(self, record: FitRecord, params: Mapping[str, Any]) -> str:
        """Return the run of a fit, which is created with its parameters unless it exists."""
        tags = {KIND_TAG: "fit", KEY_TAG: record.key}
        found = self.registry.find_run(tags)
        if found is not None:
            return found
        experiment = ensure_experiment(self._client, EXPERIMENT, self.root)
        run = self._client.create_run(experiment, run_name=record.model, tags=tags)
        name = str(run.info.run_id)
        facts = {f"orchestrator.environment.{k}": v for k, v in environment({}).items()}
        log_params(self._client, name, params, facts)
        return name

    def _is_first(self, record: FitRecord) -> bool:
        """Say whether no other version of the model answers, but perhaps that of this very fit."""
        champion = self.registry.alias(record.model, CHAMPION)
        if champion is None:
            return True
        own = self.registry.version_tags(record.model, champion).get(KEY_TAG) == record.key
        return own and self.registry.alias(record.model, PREVIOUS) is None

    def judge(
        self,
        record: FitRecord,
        metrics: Mapping[str, float],
        folder: Path,
        params: Mapping[str, Any],
        data: Data,
    ) -> PromotionRecord:
        """Register an exported model under the folder's name and let the gates decide.

        Args:
            record: The fit.
            metrics: Test metrics under the names that gates read.
            folder: The exported model.
            params: Settings of the recipe by dotted name.
            data: Data settings of the recipe.
        """
        run = self.run_of(record, params)
        began = int(self._client.get_run(run).info.start_time)  # logged again it is the same value
        log_rows(self._client, run, [(began, 0, metrics)])
        gates = choose_gates()
        if self._is_first(record):  # nothing to be slower than
            gates = [gate for gate in gates if metric_of(gate) != LATENCY]
        found = promote(
            metrics,
            registry=self.registry,
            model=record.model,
            folder=folder,
            run_id=run,
            tags={KEY_TAG: record.key},
            description=f"Fitted to {record.photos.images:,} photos of {record.photos.folder}.",
            gates=gates,
            data=data,
        )
        self._client.set_terminated(run, "FINISHED")
        return found
