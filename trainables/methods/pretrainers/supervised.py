"""Weights from a checkpoint or from timm."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from trainables.methods.pretrainers import Pretrainer


class Supervised(Pretrainer):
    """Weights that exist already: a checkpoint file, or timm's own for the backbone.

    Nothing is trained; the stage loads the weights into the trunk.

    Args:
        checkpoint: Path of a ``.safetensors`` file with the trunk's state; empty for none.
        timm_pretrained: Load timm's weights for the backbone (downloads once). Default: where no
            checkpoint is given.
        pretrained_on: What the weights have seen, e.g. ``"imagenet-1k"``. Recorded, because
            weights that have seen the new classes make every result about them worthless.

    Raises:
        ValueError: Both sources or none are given, or the checkpoint is not a safetensors file (a
            pickle would run code on loading).

    Source:
        None: the common practice of transfer learning; timm: github.com/huggingface/
        pytorch-image-models.

    Example:
        >>> Supervised(checkpoint="trunk.safetensors", pretrained_on="my images").trains
        False
    """

    trains: ClassVar[bool] = False

    checkpoint: str = ""
    timm_pretrained: bool = True
    pretrained_on: Annotated[str, Field(min_length=1)] = "unstated"

    @model_validator(mode="before")
    @classmethod
    def _checkpoint_replaces_timm(cls, values: Any) -> Any:
        """Let a given checkpoint switch the default source off."""
        if isinstance(values, dict) and values.get("checkpoint"):
            return {"timm_pretrained": False, **values}
        return values

    @model_validator(mode="after")
    def _has_one_source(self) -> Supervised:
        """Refuse a method that would load nothing, twice, or a pickle."""
        if bool(self.checkpoint) == self.timm_pretrained:
            raise ValueError(
                "supervised: give either a checkpoint or timm_pretrained: true; received "
                f"{'both' if self.checkpoint else 'neither (none starts from random weights)'}"
            )
        if self.checkpoint and not self.checkpoint.endswith(".safetensors"):
            raise ValueError(
                f"supervised: checkpoint must be a .safetensors file; received '{self.checkpoint}'"
            )
        return self
