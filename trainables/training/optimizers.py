"""SGD without torch's compiler, which the first ``torch.optim`` object of a process imports.

That import costs 1.7 s of CPU in each process that trains: 10.7 s in place of 9.7 s for ``python
-m trainables experiments/digits.yaml`` (medians of five on a loaded 2-core machine). The steps are
torch's function ``torch.optim.sgd.sgd``, which does not import it; ``adamw`` is torch's optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.sgd import sgd


class Optimizer(Protocol):
    """What the training loop needs of an optimizer; ``torch.optim`` and `LeanSGD` have it."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""

    def step(self) -> Any:
        """Change the parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""


class LeanSGD:
    """SGD with momentum, Nesterov's form and weight decay, equal to ``torch.optim.SGD``.

    ``g <- g + weight_decay * w``; ``v <- momentum * v + g`` (first step ``v = g``);
    ``w <- w - lr * (g + momentum * v)`` with Nesterov, ``w - lr * v`` without.

    Equality with ``torch.optim.SGD`` is tested bit by bit.

    Args:
        param_groups: Dictionaries with ``params`` and ``lr``; other entries are kept.
        momentum: 0 keeps no velocity.
        nesterov: Use Nesterov's form; needs momentum.
        weight_decay: Multiple of the weights that is added to the gradient.

    Source:
        Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning";
        the form of ``torch.optim.SGD``.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = LeanSGD([{"params": [weight], "lr": 0.1}], momentum=0.9)
        >>> weight.grad = torch.tensor([2.0])
        >>> optimizer.step()
        >>> round(weight.item(), 3)
        0.8
    """

    def __init__(
        self,
        param_groups: Iterable[dict[str, Any]],
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self.param_groups = list(param_groups)
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        self._velocity: dict[int, Tensor] = {}
        everything = [p for group in self.param_groups for p in group["params"]]
        self._number = {id(p): number for number, p in enumerate(everything)}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None if set_to_none else torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters that have a gradient."""
        for group in self.param_groups:
            chosen = [p for p in group["params"] if p.grad is not None]
            numbers = [self._number[id(p)] for p in chosen]
            velocities = [self._velocity.get(number) for number in numbers]
            sgd(
                chosen,
                [p.grad for p in chosen],
                velocities,  # those that are missing are filled in
                foreach=True,  # on a GPU a call costs more than what it does here
                lr=group["lr"],
                momentum=self.momentum,
                nesterov=self.nesterov,
                weight_decay=self.weight_decay,
                dampening=0.0,
                maximize=False,
            )
            found = zip(numbers, velocities, strict=True)
            self._velocity |= {number: v for number, v in found if v is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return the velocities by the parameters' numbers, and the groups' learning rates."""
        return {
            "velocity": dict(self._velocity),
            "lr": [group["lr"] for group in self.param_groups],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, on the parameters' own devices."""
        everything = [p for group in self.param_groups for p in group["params"]]
        self._velocity = {
            int(number): velocity.to(everything[int(number)].device).clone()
            for number, velocity in state_dict["velocity"].items()
        }
        for group, rate in zip(self.param_groups, state_dict["lr"], strict=True):
            group["lr"] = rate
