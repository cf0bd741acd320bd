"""Who hears the reports of a training, and may die of one."""

from collections.abc import Mapping

Reports = list[tuple[int, dict[str, float]]]


class KilledError(RuntimeError):
    """The process died."""


class Listener:
    """Notes reports, and dies at the one of a given number."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.reports: Reports = []
        self.dies_at = dies_at

    def __call__(self, metrics: Mapping[str, float], epoch: int) -> None:
        self.reports.append((epoch, dict(metrics)))
        if len(self.reports) == self.dies_at:
            raise KilledError
