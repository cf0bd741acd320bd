"""Samplers as a user might write them."""

from typing import Any

from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial


class Counting(RandomSampler):
    """Draws 0.01, 0.02 ... for `x`: what it knows is in memory, as with many optimizers."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(seed)
        self.drawn = 0

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, *range_: Any) -> Any:
        if name != "x":
            return super().sample_independent(study, trial, name, *range_)
        self.drawn += 1
        return self.drawn / 100


class Failing(RandomSampler):
    """Draws nothing."""

    def sample_independent(self, *question: Any) -> Any:
        raise RuntimeError("no idea\nat all")


class Choosy(RandomSampler):
    """Cannot be made without being told more."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
