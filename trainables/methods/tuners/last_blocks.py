"""Training of the trunk's last blocks alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.tuners import Tuner

if TYPE_CHECKING:
    from trainables.models.backbone import Trunk


class LastBlocks(Tuner):
    """The last blocks of the trunk are trained; the others stay, batch norm's statistics included.

    Args:
        blocks: Number of blocks that are trained, at least 1; what follows the last block, such as
            a final norm, belongs to it. Blocks are those of
            `trainables.models.trunks.blocks.blocks_of`.
        block_decay: Factor of the learning rate from a block to the one before it, in (0, 1].
        drop_path: Drop-path rate, see `Full`.

    Raises:
        ConfigError: The trunk has fewer blocks.

    Source:
        Common practice of transfer learning; Yosinski et al. 2014, "How transferable are features
        in deep neural networks?", arXiv 1411.1792, section 4.

    Example:
        >>> from trainables.models.backbone import build_trunk
        >>> rates = LastBlocks(blocks=1).rates(build_trunk("fastnet", 32))
        >>> sorted({name.rpartition(".")[0] for name in rates})[0]
        'network.groups.2.conv1'
    """

    blocks: Annotated[int, Field(ge=1), Range(1, 4)] = 1
    block_decay: Annotated[float, Field(gt=0, le=1), Range(0.5, 1.0)] = 1.0
    drop_path: Annotated[float, Field(ge=0, lt=1), Range(0.0, 0.3)] = 0.0

    @property
    def stochastic_depth(self) -> float:
        return self.drop_path

    def rates(self, trunk: Trunk) -> dict[str, float]:
        from trainables.errors import ConfigError
        from trainables.models.trunks.blocks import blocks_of

        blocks = blocks_of(trunk)
        if self.blocks > len(blocks):
            raise ConfigError(
                f"last_blocks.blocks: the trunk has {len(blocks)} blocks; must be at most that; "
                f"received {self.blocks}"
            )
        return {
            name: self.block_decay**behind
            for behind, names in enumerate(reversed(blocks[-self.blocks :]))
            for name in names
        }
