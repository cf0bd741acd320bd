"""Training of the whole trunk, with a rate that may fall from the last block to the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.tuners import Tuner

if TYPE_CHECKING:
    from trainables.models.backbone import Trunk


class Full(Tuner):
    """All weights of the trunk are trained.

    The last block has the trunk's learning rate, each block before it ``block_decay`` times the
    rate of its successor. Blocks are those of `trainables.models.trunks.blocks.blocks_of`.

    Args:
        block_decay: Factor of the learning rate from a block to the one before it, in (0, 1].
        drop_path: Probability that the last block is skipped for an image in training (stochastic
            depth), in [0, 1); it grows linearly from 0 at the first block. For networks of timm
            that have it.

    Source:
        Decay per block: Clark et al. 2020, "ELECTRA", arXiv 2003.10555; for images Bao et al. 2022,
        "BEiT", arXiv 2106.08254. Stochastic depth: Huang et al. 2016, arXiv 1603.09382.

    Example:
        >>> from trainables.models.backbone import build_trunk
        >>> rates = Full(block_decay=0.5).rates(build_trunk("fastnet", 32))
        >>> rates["network.stem.weight"], rates["network.groups.2.conv1.weight"]
        (0.125, 1.0)
    """

    block_decay: Annotated[float, Field(gt=0, le=1), Range(0.5, 1.0)] = 1.0
    drop_path: Annotated[float, Field(ge=0, lt=1), Range(0.0, 0.3)] = 0.0

    @property
    def stochastic_depth(self) -> float:
        return self.drop_path

    def rates(self, trunk: Trunk) -> dict[str, float]:
        from trainables.models.trunks.blocks import blocks_of

        return {
            name: self.block_decay**behind
            for behind, names in enumerate(reversed(blocks_of(trunk)))
            for name in names
        }
