"""A computation that is recorded once, as one CUDA graph, and replayed."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from trainables.optimizers import Optimizer

logger = logging.getLogger(__name__)

WARM_UP = 3  # steps before a recording: kernels are chosen and velocities made in the first ones
TOLERANCE = 0.05  # a replay may differ from the step by this part of the change that it makes
EAGERLY = "%s: the step runs eagerly: %s"
Phase = Callable[[float], Hashable | None]


class Stepping(Protocol):
    """One training step: changes the parameters and returns the loss."""

    optimizer: Optimizer
    device: torch.device

    def __call__(self, batch: Any, progress: float) -> Tensor:
        """Do one step."""
        ...


class Recorder(Protocol):
    """How a computation is recorded on a device."""

    def rehearse(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute as a recording does; refuse what can't be recorded, with a `RuntimeError`."""
        ...

    def record(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Return a function that does over again, on the same tensors, what was recorded."""
        ...


class CudaRecorder:
    """Records a CUDA graph: a step of some hundred kernels becomes one launch.

    Source:
        The rules of PyTorch's "CUDA Graphs" notes: warm up on another stream, replay on tensors
        that stay where they are, no call that waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def rehearse(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute on another stream; a call that waits, or draws random numbers, is refused."""
        current, side = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        drawn, mode = torch.cuda.get_rng_state(self.device), torch.cuda.get_sync_debug_mode()
        side.wait_stream(current)
        with warnings.catch_warnings():  # that it does not see every wait; the capture does
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.stream(side):
                value = compute()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            current.wait_stream(side)
        if not torch.equal(drawn, torch.cuda.get_rng_state(self.device)):
            raise RuntimeError("it draws random numbers (dropout)")
        return value

    def record(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Capture the graph; nothing is computed before the first replay."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            value = compute()

        def replay() -> Tensor:
            graph.replay()
            return value.clone()

        return replay


class RecordedStep:
    """A training step that is replayed from a recording wherever nothing but numbers changes.

    A recording holds for batches of one shape and for one phase (see `Phase`): batches of another
    shape, the last of an epoch, run eagerly, and a new phase is recorded anew. The learning rate
    is a tensor that the recording reads. Before a recording is used, one step is computed in both
    ways from the same state, and must come out alike; whatever goes wrong, training goes on
    eagerly from the state before, and one line of the log says why.

    Args:
        eager: The step.
        phase: ``progress -> `` what of the step depends on progress, besides the learning rate:
            equal answers promise equal computations; ``None`` promises nothing.
        state: All tensors that a step changes, besides those of the optimiser.
        recorder: Of the device.
        name: Of the training, for the log.
    """

    kind = "graph"

    def __init__(
        self,
        eager: Stepping,
        phase: Phase,
        state: Sequence[Tensor],
        recorder: Recorder,
        name: str,
    ) -> None:
        self.eager, self.phase, self.state = eager, phase, list(state)
        self.recorder, self.name = recorder, name
        self.count = 0
        self.given_up = False
        self._seen: dict[Hashable, int] = {}
        self._shape: Hashable = None
        self._phase: Hashable = None
        self._replay: Callable[[], Tensor] | None = None
        self._static: Any = None
        for group in eager.optimizer.param_groups:
            group["lr"] = torch.full((), float(group["lr"]), device=eager.device)

    def __call__(self, batch: Any, progress: float) -> Tensor:
        """Change the parameters and return the loss."""
        phase = None if self.given_up else self.phase(progress)
        if phase is None:
            return self.eager(batch, progress)
        if phase != self._phase:
            self._phase, self._replay, self._seen = phase, None, {}
        shape = shape_of(batch)
        if self._replay is not None and shape == self._shape:
            self.count += 1
            _copy(self._static, batch)
            return self._replay()
        seen = self._seen[shape] = self._seen.get(shape, 0) + 1
        if self._replay is None and seen > WARM_UP:
            return self._record(batch, progress, shape)
        return self.eager(batch, progress)

    def _record(self, batch: Any, progress: float, shape: Hashable) -> Tensor:
        """Do a step in both ways and keep the recording if they agree."""
        before = self._snapshot()
        self._static, self._shape = _clone(batch), shape
        static = self._static
        try:
            loss = self.recorder.rehearse(lambda: self.eager(static, progress))
            after = self._snapshot()
            if len(after) != len(before):
                raise RuntimeError("it trains what the steps before did not")
            self._restore(before)
            self.eager.optimizer.zero_grad(set_to_none=True)
            replay = self.recorder.record(lambda: self.eager(static, progress))
            self._restore(before)
            again = replay()
            _check_alike([torch.zeros_like(loss)], [loss], [again])
            replayed = self._snapshot()
            for part in self._parts():
                _check_alike(*([tensors[n] for n in part] for tensors in (before, after, replayed)))
        except RuntimeError as error:
            self._restore(before)
            self._give_up(str(error).strip().splitlines()[0])
            return self.eager(batch, progress)
        self._replay = replay
        self.count += 1
        logger.info("%s: the step is replayed from a recording", self.name)
        return again

    def _give_up(self, reason: str) -> None:
        """Run eagerly from now on."""
        self.given_up, self._static, self._replay = True, None, None
        logger.info(EAGERLY, self.name, reason)

    def _changing(self) -> list[Tensor]:
        """Return all tensors that a step changes."""
        return [*self.state, *_tensors(self.eager.optimizer.state_dict())]

    def _parts(self) -> list[list[int]]:
        """Return which of them are parameters, running means, and numbers of the optimiser.

        Each has a scale of its own, in which a difference shows.
        """
        own = len(self.state)
        trained = [n for n in range(own) if self.state[n].requires_grad]
        observed = [n for n in range(own) if not self.state[n].requires_grad]
        return [trained, observed, list(range(own, len(self._changing())))]

    def _snapshot(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._changing()]

    @torch.no_grad()
    def _restore(self, before: Sequence[Tensor]) -> None:
        # the optimiser may have more numbers by now: those of what was not trained before
        for tensor, value in zip(self._changing(), before, strict=False):
            tensor.copy_(value)


def _leaves(tree: Any) -> list[Any]:
    """Return what is in nested tuples, lists and dictionaries, in order."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [leaf for part in tree for leaf in _leaves(part)]
    return [tree]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in _leaves(tree) if isinstance(leaf, Tensor)]


def shape_of(batch: Any) -> Hashable:
    """Return all of a batch that a recording takes for granted."""
    return tuple(
        (tuple(leaf.shape), leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf
        for leaf in _leaves(batch)
    )


def _clone(tree: Any) -> Any:
    """Return the tree with copies of its tensors."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, tuple):
        parts = [_clone(part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree


def _copy(target: Any, source: Any) -> None:
    for kept, new in zip(_tensors(target), _tensors(source), strict=True):
        kept.copy_(new)


def _check_alike(
    before: Sequence[Tensor], eager: Sequence[Tensor], replayed: Sequence[Tensor]
) -> None:
    """Compare two steps from one state.

    Raises:
        RuntimeError: They differ by more than rounding.
    """
    changed = missed = 0.0
    for start, one, other in zip(before, eager, replayed, strict=True):
        if not one.is_floating_point():
            missed += 0.0 if torch.equal(one, other) else math.inf
            continue
        changed += float((one.double() - start.double()).square().sum())
        missed += float((one.double() - other.double()).square().sum())
    if not missed <= TOLERANCE**2 * changed:
        share = math.sqrt(missed / changed) if changed else math.inf
        raise RuntimeError(f"its replay differs from it by {share:.2g} of the change")
