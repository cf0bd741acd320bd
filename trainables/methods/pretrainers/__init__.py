"""Shelf: pretrainers. One file per method; the contract is `Pretrainer`."""

from collections.abc import Callable
from typing import Any, ClassVar

from trainables.methods.method import Method


class Pretrainer(Method):
    """Learns a representation without labels.

    ``build(num_features) -> torch.nn.Module`` makes what is trained beside the trunk (a projector);
    the call ``(*, first_projections, second_projections) -> loss`` gets its outputs ``[B, P]`` for
    two views. Or it is ``(*, queries, keys, queue) -> loss``: the second view's keys come from a
    copy of trunk and projector that follows by ``momentum``, and the queue ``[queue_size,
    output_dimension]`` holds earlier ones. A method with one of the `views` asks a question about
    it: ``pretext(*, images, generator) -> (images, targets)``, and the call is ``(*, logits,
    targets) -> loss``. `trains` is False for a method that only says where the weights come from.
    """

    trains: ClassVar[bool] = True
    views: ClassVar[int] = 2
    build: ClassVar[Callable[..., Any]]
    pretext: ClassVar[Callable[..., Any]]
