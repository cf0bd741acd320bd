"""Pretrained weights from a file, or those that the backbone names."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from trainables.methods.method import ContentOfFile
from trainables.methods.pretrainers import Pretrainer

UNSTATED = "unstated"
ENDINGS = (".safetensors", ".pth", ".pt", ".bin")


class Pretrained(Pretrainer):
    """Pretrained weights that the backbone names, or from a file for the architecture it names.

    The stage loads the weights into the trunk without training. Size, interpolation and crop of the
    images, and mean and standard deviation of their colors, come with the weights: what a recipe
    does not set of ``data.image_size``, ``data.interpolation`` and ``data.crop_fraction`` is filled
    in when it is read.

    Args:
        checkpoint: Path of a file of weights (``.safetensors``, or ``.pth``, ``.pt`` and ``.bin``
            that hold tensors alone) for the architecture of ``pretrain.backbone``; empty for none.
            ``config.json`` beside it tells its preprocessing; without that timm's for the
            architecture is assumed, and a line of the log says which.
        timm_pretrained: Load the weights that the backbone names: those of a name of timm
            (``resnet18.a1_in1k``, downloaded once), of ``hf-hub:OWNER/NAME`` or of
            ``local-dir:PATH``. Default true without a checkpoint.
        pretrained_on: What you know of a checkpoint's training data, e.g. ``"my own photos"``. The
            text is shown with the model, but proves nothing: the origin is known of timm's weights
            and of this program's trunks (``tensors.safetensors`` of an artifact) only.

    Raises:
        ValueError: Both sources or none are given, or the checkpoint has another ending.

    Source:
        None: common practice of transfer learning; timm: github.com/huggingface/
        pytorch-image-models.

    Example:
        >>> Pretrained(checkpoint="trunk.safetensors", pretrained_on="my images").trains
        False
    """

    trains: ClassVar[bool] = False

    checkpoint: Annotated[str, ContentOfFile()] = ""
    timm_pretrained: bool = True
    pretrained_on: Annotated[str, Field(min_length=1)] = UNSTATED

    @property
    def statement(self) -> str:
        """What the recipe says about the weights' training data; empty if it says nothing."""
        return "" if self.pretrained_on == UNSTATED else self.pretrained_on

    @model_validator(mode="before")
    @classmethod
    def _checkpoint_replaces_timm(cls, values: Any) -> Any:
        """Set ``timm_pretrained`` to false by default if a checkpoint is given."""
        if isinstance(values, dict) and values.get("checkpoint"):
            return {"timm_pretrained": False, **values}
        return values

    @model_validator(mode="after")
    def _has_one_source(self) -> Pretrained:
        """Require exactly one source of weights, and a file that can be read without running it."""
        if bool(self.checkpoint) == self.timm_pretrained:
            raise ValueError(
                "pretrained: set either checkpoint or timm_pretrained: true; received "
                f"{'both' if self.checkpoint else 'neither (none starts from random weights)'}"
            )
        if self.checkpoint and not self.checkpoint.endswith(ENDINGS):
            raise ValueError(
                f"pretrained: checkpoint must end in {', '.join(ENDINGS)}; "
                f"received '{self.checkpoint}'"
            )
        return self
