"""Report function that stores a training's reports and can raise an error at one of them."""

from collections.abc import Mapping

Reports = list[tuple[int, dict[str, float]]]


class KilledError(RuntimeError):
    """Simulated death of the training process."""


class Listener:
    """Stores reports, and raises `KilledError` at report number ``dies_at``."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.reports: Reports = []
        self.dies_at = dies_at

    def __call__(self, metrics: Mapping[str, float], epoch: int) -> None:
        self.reports.append((epoch, dict(metrics)))
        if len(self.reports) == self.dies_at:
            raise KilledError
