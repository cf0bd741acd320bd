"""Self-supervised pretraining and sources of pretrained weights; base class `Pretrainer`."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from trainables.methods.method import Method


class Pretrainer(Method):
    """Self-supervised learning of a representation.

    ``build(num_features) -> torch.nn.Module`` builds a module that is trained with the trunk, e.g.
    a projector. The call has one of three forms:

    - ``(*, first_projections, second_projections) -> loss`` on the module's outputs ``[B, P]`` for
      two views.
    - ``(*, queries, keys, queue) -> loss``, where a momentum copy of trunk and module computes the
      keys of the second view, and the queue ``[queue_size, output_dimension]`` holds earlier keys.
    - ``(*, logits, targets) -> loss`` for methods with ``views = 1``, whose pretext task is
      ``pretext(*, images, generator) -> (images, targets)``.

    `trains` is False for methods that only load weights.
    """

    aliases: ClassVar[Mapping[str, str]] = {"supervised": "pretrained"}

    trains: ClassVar[bool] = True
    views: ClassVar[int] = 2
    build: ClassVar[Callable[..., Any]]
    pretext: ClassVar[Callable[..., Any]]
