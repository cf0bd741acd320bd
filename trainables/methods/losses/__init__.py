"""Training losses, one per file; base class `Loss`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trainables.methods.method import Method

if TYPE_CHECKING:
    from trainables.models.contrastive_module import ContrastiveModule


class Loss(Method):
    """A training loss over a batch: higher = worse, a mean over the batch.

    ``(*, logits or features or projections, labels, class_counts, progress, ...) -> scalar``.
    State-free: class counts come in at the call, so they stay right when new classes arrive.

    A contrastive loss gets ``projections [N, P]``, unit-norm outputs of a projector that is trained
    beside the model, and asks for what else it needs of that module by name (``prototypes [C, P]``,
    ``queue [Q, P]``, ``queue_labels [Q]``, ``class_means [C, P]``). Its `build` makes the module,
    which also says how many random views of each image the loss wants: with two, every image is two
    rows of the batch.

    A loss on ``expert_logits [B, E, C]`` needs the head ``experts``, with `num_experts` of them if
    that is not 0.
    """

    num_experts: ClassVar[int] = 0

    def build(self, num_features: int, num_classes: int) -> ContrastiveModule | None:
        """Return what is trained beside the model, or ``None``: nothing."""
        return None

    @classmethod
    def trains_head(cls) -> bool:
        """Say whether the logits are trained, or the features alone."""
        return bool({"logits", "expert_logits"} & cls.accepted_inputs())

    def check_base(self, field: str, base: Loss) -> None:
        """Refuse a wrapped loss that would not get all that it needs.

        Raises:
            ValueError: The wrapper's call lacks a tensor that the wrapped loss needs.
        """
        missing = base.required_inputs() - self.accepted_inputs()
        if missing:
            raise ValueError(
                f"losses/{self.name}.{field}: '{base.name}' needs {', '.join(sorted(missing))}, "
                f"which '{self.name}' does not pass on"
            )
