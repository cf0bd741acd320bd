"""Settings of the data: a source, and the protocol that cuts it into views."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainables.methods.profiles import Profile
from trainables.methods.splits import Split
from trainables.settings import Settings

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Stream(Settings):
    """What flows past the deployed model: unlabelled images of known, new and unrelated kind.

    Counts are upper bounds; a source with fewer images gives what it has.
    """

    known: Annotated[int, Field(ge=0)] = 200
    novel: Annotated[int, Field(ge=0)] = 300
    unrelated: Annotated[int, Field(ge=0)] = 40
    unrelated_source: str = "noise"


class Unlabelled(Settings):
    """Further images of the known classes, without labels, for semi-supervised training.

    ``ratio`` times as many as there are labelled ones, with a long tail of their own: the largest
    class has ``imbalance_factor`` times the images of the smallest. 0 takes none.
    """

    ratio: NonNegative = 0.0
    imbalance_factor: Annotated[float, Field(ge=1)] = 1.0


class Data(Settings):
    """A data source and the protocol that cuts it, in this fixed order.

    Hold out the new classes, carve a balanced validation slice, make the known classes
    long-tailed, set unlabelled images apart, lay out the stream.

    ``max_per_class`` bounds the most frequent class, and with it all others; what it leaves over
    is there for ``unlabelled`` and the stream.

    ``novel_classes=0`` is a closed world, the protocol of long-tail papers: all classes are known.
    ``validation_per_class=0`` leaves every image to the training, as papers do; there is nothing to
    choose settings by then, so it needs ``world="test"``.
    """

    source: str = "digits"
    root: str = "data"
    image_size: Annotated[int, Field(ge=8)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    split: Split = Field(default="random")  # type: ignore[assignment]
    novel_classes: Annotated[int, Field(ge=0)] = 3
    validation_novel_classes: Annotated[int, Field(ge=0)] = 1
    validation_per_class: Annotated[int, Field(ge=0)] = 20
    profile: Profile = Field(default="exponential")  # type: ignore[assignment]
    max_per_class: Count | None = None
    unlabelled: Unlabelled = Unlabelled()
    stream: Stream = Stream()
    world: Literal["validation", "test"] = "validation"
    skip_unreadable: bool = False

    @model_validator(mode="after")
    def _some_novel_classes_left(self) -> Data:
        """Refuse to spend all new classes on validation, or none of them."""
        if self.novel_classes == 1:
            raise ValueError(
                "data.novel_classes: must be 0 (a closed world) or at least 2, one for the "
                "validation and one for the test; received 1"
            )
        if self.novel_classes == 0 and self.validation_novel_classes:
            raise ValueError(
                "data.validation_novel_classes: must be 0 where data.novel_classes is 0; "
                f"received {self.validation_novel_classes}"
            )
        if self.novel_classes and not 0 < self.validation_novel_classes < self.novel_classes:
            raise ValueError(
                "data.validation_novel_classes: must be at least 1 and must be smaller than "
                f"data.novel_classes ({self.novel_classes}), the rest is for the test; "
                f"received {self.validation_novel_classes}"
            )
        return self

    @model_validator(mode="after")
    def _something_to_evaluate_on(self) -> Data:
        """Refuse to leave out a validation slice that something needs."""
        if self.validation_per_class == 1:
            raise ValueError(
                "data.validation_per_class: must be 0 or at least 2, one half calibrates and the "
                "other evaluates; received 1"
            )
        if self.validation_per_class == 0 and (self.world != "test" or self.novel_classes):
            raise ValueError(
                "data.validation_per_class: 0 is for data.world=test and data.novel_classes=0 "
                f"alone; received data.world={self.world}, data.novel_classes={self.novel_classes}"
            )
        return self
