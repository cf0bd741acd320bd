"""Settings of the data: the source, and the protocol that splits it into views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from trainables.data.service_settings import SERVICE, SERVICE_DEFAULTS, refused_in_service
from trainables.data.source_names import (
    FOLDER,
    TABLE,
    Classes,
    Columns,
    default_profile,
    own_kind,
)
from trainables.errors import did_you_mean
from trainables.methods.profiles import Profile
from trainables.methods.splits import Split
from trainables.settings import Settings

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest", "box", "hamming"]


class Fitting(NamedTuple):
    """How an image of any size becomes a square, see `trainables.data.source_cache.fit_image`.

    ``crop_fraction`` is the side of the square over the shorter side of the resized image.
    """

    interpolation: Interpolation = "bilinear"
    crop_fraction: float = 1.0


USUAL_FITTING = Fitting()


class Stream(Settings):
    """Unlabelled images that the deployed model receives: of known, new and unrelated classes.

    Counts are upper bounds; a source with fewer images provides all of its images.

    Args:
        known: Largest number of images of known classes.
        novel: Largest number of images of new classes.
        unrelated: Largest number of images of unrelated classes.
        unrelated_source: Source of the unrelated images.
    """

    known: Annotated[int, Field(ge=0)] = 200
    novel: Annotated[int, Field(ge=0)] = 300
    unrelated: Annotated[int, Field(ge=0)] = 40
    unrelated_source: str = "noise"


class Unlabelled(Settings):
    """Unlabelled images of the known classes for semi-supervised training.

    These images are training images that the long-tailed profile left out. Their class sizes form a
    separate long tail.

    Args:
        ratio: Number of unlabelled images over that of labelled images; 0 for none.
        imbalance_factor: Number of unlabelled images in the largest class over that in the
            smallest.
    """

    ratio: NonNegative = 0.0
    imbalance_factor: Annotated[float, Field(ge=1)] = 1.0


class Data(Settings):
    """Data source and the protocol that splits the source.

    The order of the protocol is fixed: hold out the new classes, split off a balanced validation
    set, make the known classes long-tailed, set unlabelled images aside, assemble the stream.

    ``novel_classes: 0`` is a closed world, the protocol of long-tail papers: all classes are known.
    ``validation_per_class: 0`` trains on every image, as papers do; without a validation set no
    settings can be selected, so it requires ``world: test``, or ``world: service``, where answers
    out of fold stand in for it.

    Args:
        source: ``digits``, ``cifar10``, ``cifar100``, ``svhn``, ``textures``, ``noise`` or
            ``folder:PATH``, or ``table:PATH`` of a CSV or Parquet file.
        columns: Names of the columns of ``table:PATH``.
        root: Folder of the named data sets.
        image_size: Height and width in pixels; ``null`` takes the size of the pretrained weights,
            and without these keeps the source's size.
        interpolation: How image files are resized; ``null`` is that of the pretrained weights, and
            without these ``bilinear``.
        crop_fraction: Side of the center square that is kept over the shorter side of the resized
            image; ``null`` is that of the pretrained weights, and without these 1.
        seed: Seed of the protocol.
        split: Method that chooses the new classes.
        novel_classes: Number of new classes, at least 2, or 0 for a closed world; or their names.
        validation_novel_classes: Number of new classes for validation, or names of some of
            ``novel_classes``; the test has the others.
        phases: Number of phases in which the new classes of the test arrive, in the order of
            ``novel_classes`` where it names them.
        phase: Phase that the stream has reached. Classes of later phases are in no training and in
            no pool; their test images are judged as unknown ones.
        validation_per_class: Validation images per known class; 0 leaves all images for training.
        profile: Shape of the long tail; without the setting ``natural`` for ``folder:PATH`` and
            ``table:PATH``, ``exponential`` for other sources.
        max_per_class: Largest size of the most frequent class and, through the profile, of the
            others; ``null`` for no limit.
        world: ``validation`` evaluates on held-out training images and the validation's new
            classes, ``test`` on the test part and the other new classes. Where the validation has
            two new classes or more, ``validation`` fits the threshold on the first half of them and
            evaluates on the second, ``validation_swapped`` the other way round; a search averages
            the two. ``service`` is the model that answers: every class is known, the whole train
            part trains, and the source's own validation (or, without one, answers to training
            images out of fold) calibrates.
        skip_unreadable: Skip unreadable files, broken links and empty class folders with a warning
            instead of stopping.
    """

    source: str = "digits"
    columns: Columns = Columns()
    root: str = "data"
    image_size: Annotated[int, Field(ge=8)] | None = None
    interpolation: Interpolation | None = None
    crop_fraction: Annotated[float, Field(ge=0.1, le=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    split: Split = Field(default="random")  # type: ignore[assignment]
    novel_classes: Classes = 3
    validation_novel_classes: Classes = 1
    phases: Count = 1
    phase: Count = 1
    validation_per_class: Annotated[int, Field(ge=0)] = 20
    profile: Profile = Field(default="exponential")  # type: ignore[assignment]
    max_per_class: Count | None = None
    unlabelled: Unlabelled = Unlabelled()
    stream: Stream = Stream()
    world: Literal["validation", "validation_swapped", "test", "service"] = "validation"
    skip_unreadable: bool = False

    @model_validator(mode="before")
    @classmethod
    def _default_profile_of_the_source(cls, settings: Any) -> Any:
        """Fill in the profile, so that dumps and digests name it, and what a world decides."""
        if isinstance(settings, Mapping) and settings.get("world") == SERVICE:
            settings = {**SERVICE_DEFAULTS, **settings}
        if isinstance(settings, Mapping) and "profile" not in settings:
            return {**settings, "profile": default_profile(settings.get("source"))}
        return settings

    @model_validator(mode="after")
    def _some_novel_classes_left(self) -> Data:
        """Require new classes in both worlds, validation and test, or in neither."""
        new, validation = self.num_novel, self.num_validation_novel
        if new == 1:
            raise ValueError(
                "data.novel_classes: must be 0 (a closed world) or at least 2, one for "
                "validation and one for the test; received 1"
            )
        if new == 0 and validation:
            raise ValueError(
                "data.validation_novel_classes: must be 0 if data.novel_classes is 0; "
                f"received {validation}"
            )
        if new and not 0 < validation < new:
            raise ValueError(
                "data.validation_novel_classes: must be at least 1 and must be smaller than "
                f"data.novel_classes ({new}), because the test needs the remaining new classes; "
                f"received {validation}"
            )
        return self

    @model_validator(mode="after")
    def _sources_of_their_kind(self) -> Data:
        """Refuse columns of a source that has none, and a table of unrelated images."""
        named = [name for name, value in self.columns if value is not None]
        if named and not own_kind(self.source):
            raise ValueError(
                f"data.columns.{named[0]}: source '{self.source}' has no columns; allowed with "
                f"{TABLE}PATH, or {FOLDER}PATH of a saved dataset"
            )
        unrelated = self.stream.unrelated_source
        if own_kind(unrelated) == TABLE:
            raise ValueError(
                "data.stream.unrelated_source: must be a folder, whose images count at any depth, "
                f"or a named data set; received '{unrelated}'"
            )
        return self

    @model_validator(mode="after")
    def _names_of_new_classes(self) -> Data:
        """Refuse names that nothing would read."""
        new, validation = self.novel_classes, self.validation_novel_classes
        if not isinstance(new, int) and self.split.name != "random":
            raise ValueError(
                "data.split: must be random where data.novel_classes names the new classes; "
                f"received {self.split.name}"
            )
        if isinstance(validation, int):
            return self
        if isinstance(new, int):
            raise ValueError(
                "data.novel_classes: must be a list of names where data.validation_novel_classes "
                f"is one; received {new}"
            )
        for name in validation:
            if name not in new:
                raise ValueError(
                    f"data.validation_novel_classes: '{name}' is none of data.novel_classes; "
                    f"allowed: {', '.join(new)}{did_you_mean(name, new)}"
                )
        return self

    @model_validator(mode="after")
    def _phases_with_classes(self) -> Data:
        """Require a new class in each phase, and a phase that there is."""
        most = max(self.num_novel - self.num_validation_novel, 1)
        if self.phases > most:
            raise ValueError(
                f"data.phases: allowed: 1 to {most}, the new classes of the test; received "
                f"{self.phases}"
            )
        if self.phase > self.phases:
            raise ValueError(
                f"data.phase: allowed: 1 to data.phases={self.phases}; received {self.phase}"
            )
        return self

    @property
    def num_novel(self) -> int:
        """The number of new classes.

        Example:
            >>> Data(novel_classes=("daisy", "rose")).num_novel
            2
        """
        return (
            self.novel_classes if isinstance(self.novel_classes, int) else len(self.novel_classes)
        )

    @property
    def num_validation_novel(self) -> int:
        """The number of new classes for validation."""
        chosen = self.validation_novel_classes
        return chosen if isinstance(chosen, int) else len(chosen)

    @model_serializer(mode="wrap")
    def _unset_left_out(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later and is not set: recipes stored before keep their digests."""
        tree: dict[str, Any] = dump(self)
        columns = Columns().model_dump(mode="json")
        usual = {**dict.fromkeys(Fitting._fields), "columns": columns, "phases": 1, "phase": 1}
        return {key: value for key, value in tree.items() if usual.get(key, ...) != value}

    @property
    def fitting(self) -> Fitting:
        """How an image becomes a square.

        Example:
            >>> Data().fitting
            Fitting(interpolation='bilinear', crop_fraction=1.0)
            >>> Data(interpolation="bicubic", crop_fraction=0.875).fitting
            Fitting(interpolation='bicubic', crop_fraction=0.875)
        """
        return Fitting(
            self.interpolation or USUAL_FITTING.interpolation,
            USUAL_FITTING.crop_fraction if self.crop_fraction is None else self.crop_fraction,
        )

    @property
    def validation_worlds(self) -> tuple[str, ...]:
        """Return the worlds whose mean metrics judge a recipe in a search.

        Example:
            >>> Data().validation_worlds
            ('validation',)
            >>> Data(novel_classes=4, validation_novel_classes=2).validation_worlds
            ('validation', 'validation_swapped')
        """
        if self.world == SERVICE:
            return (SERVICE,)
        several = self.num_validation_novel >= 2
        return ("validation", "validation_swapped") if several else ("validation",)

    @property
    def final_world(self) -> str:
        """Return the world in which a finalist is judged.

        Example:
            >>> Data().final_world, Data(world="service").final_world
            ('test', 'service')
        """
        return SERVICE if self.world == SERVICE else "test"

    @model_validator(mode="after")
    def _service_has_its_own_settings(self) -> Data:
        """Refuse in world `service` what would withhold a class or an image from it."""
        refusal = refused_in_service(self) if self.world == SERVICE else ""
        if refusal:
            raise ValueError(refusal)
        return self

    @model_validator(mode="after")
    def _halves_to_swap(self) -> Data:
        """Refuse to swap the halves of a single class."""
        if self.world == "validation_swapped" and self.num_validation_novel < 2:
            raise ValueError(
                "data.world: validation_swapped requires data.validation_novel_classes of at least "
                f"2; received {self.num_validation_novel}"
            )
        return self

    @model_validator(mode="after")
    def _something_to_evaluate_on(self) -> Data:
        """Require a validation set wherever settings or new classes need one."""
        if self.world == SERVICE:
            return self
        if self.validation_per_class == 1:
            raise ValueError(
                "data.validation_per_class: must be 0 or at least 2, one half for calibration and "
                "one for evaluation; received 1"
            )
        if self.validation_per_class == 0 and (self.world != "test" or self.num_novel):
            raise ValueError(
                "data.validation_per_class: 0 requires data.world=test and data.novel_classes=0, "
                "or data.world=service; "
                f"received data.world={self.world}, data.novel_classes={self.num_novel}"
            )
        return self
