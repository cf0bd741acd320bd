"""A recorder for machines without CUDA graphs."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx


class Traced:
    """Replays a step as the calls that torch saw, with the numbers of that time."""

    def __init__(self) -> None:
        self.recordings = 0

    def rehearse(self, compute: Callable[[], Tensor]) -> Tensor:
        return compute()

    def record(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recordings += 1
        traced = make_fx(compute)()

        def replay() -> Tensor:
            with torch.no_grad():  # the calls of the backward pass are among those traced
                value: Tensor = traced()
            return value.clone()

        return replay
