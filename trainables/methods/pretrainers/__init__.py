"""Shelf: pretrainers. One file per method; the contract is `Pretrainer`."""

from collections.abc import Callable
from typing import Any, ClassVar

from trainables.methods.method import Method


class Pretrainer(Method):
    """Learns a representation without labels.

    ``build(num_features) -> torch.nn.Module`` makes what is trained beside the trunk (a projector);
    the call ``(*, first_projections, second_projections) -> loss`` gets its outputs ``[B, P]`` for
    two views. `trains` is False for a method that only says where the weights come from.
    """

    trains: ClassVar[bool] = True
    build: ClassVar[Callable[..., Any]]
