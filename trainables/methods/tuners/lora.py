"""Low-rank changes of the linear layers (LoRA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.tuners import Tuner

if TYPE_CHECKING:
    from trainables.models.backbone import Trunk


class LoRA(Tuner):
    """A low-rank change of each linear layer is trained, and added to its weights at the end.

    A layer ``W x`` becomes ``W x + alpha / rank B A x``. A starts at random and B at zero, so that
    training starts from the trunk as it is. The stored trunk has ``W + alpha / rank B A`` in place
    of W and needs nothing special. For networks with linear layers, such as transformers; needs the
    package peft (``pip install peft``).

    Args:
        rank: Rows of A, at least 1; 8 in the paper's experiments with RoBERTa.
        alpha: Factor of the change, times the rank; above 0.

    Raises:
        ConfigError: The trunk has no linear layers, or peft is not installed.

    Source:
        Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685;
        layers of huggingface/peft.

    Example:
        >>> LoRA(rank=4).dump()
        {'lora': {'rank': 4, 'alpha': 8.0}}
    """

    rank: Annotated[int, Field(ge=1), Range(2, 32, log=True)] = 8
    alpha: Annotated[float, Field(gt=0), Range(4.0, 64.0, log=True)] = 8.0

    def prepare(self, trunk: Trunk) -> None:
        from trainables.models.trunks.low_rank import add_low_rank

        add_low_rank(trunk, rank=self.rank, alpha=self.alpha)

    def rates(self, trunk: Trunk) -> dict[str, float]:
        from trainables.models.trunks.low_rank import low_rank_parameters

        return dict.fromkeys(low_rank_parameters(trunk), 1.0)

    def finish(self, trunk: Trunk) -> None:
        from trainables.models.trunks.low_rank import merge_low_rank

        merge_low_rank(trunk)
