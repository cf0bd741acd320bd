"""What a rehearsal found: turns, figures over classes, JSON, and a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from trainables.errors import ConfigError
from trainables.rehearsal.intervals import Figure, Share, over_classes, precision_at, share

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
Among = Literal["all", "met", "others"]


class Turn(NamedTuple):
    """A known class that played new.

    Attributes:
        class_name: The class.
        images: Its images.
        noticed: Share of them that are called unknown, by level of false alarm.
        auroc: Probability that a known image is surer than one of them, ties counting half.
        taken_for: Known classes that its unnoticed images are called at the served level, with
            their share of all its images, the largest first; with the noticed share they add up
            to 1.
        found: By a number of images that came, whether they are found as one cluster; ``None``: it
            could not be tried.
        together: Names of the other classes that were new in the same turn.
        too_few: Levels for which too few images stayed known to set a threshold, so that nothing
            was called unknown.
    """

    class_name: str
    images: int
    noticed: dict[float, float]
    auroc: float
    taken_for: list[tuple[str, float]]
    found: dict[int, bool | None]
    together: tuple[str, ...] = ()
    too_few: tuple[float, ...] = ()


class Rehearsal(NamedTuple):
    """How well classes are noticed that the classifier was not told of, each in its turn.

    Attributes:
        turns: One for each class that played new.
        beside: Once more, each together with the classes most like it.
        levels: Levels of false alarm, ascending.
        served: The level of `Turn.taken_for` and `Turn.found`.
        met: Names of the classes that the backbone may know from its pretraining.
        prevalence: Share of new images in the stream of `Turn.found`.
        cannot_tell: Why there are no turns, or which classes have none; empty if all have one.

    Example:
        >>> turns = [
        ...     Turn("lynx", 4, {0.05: 0.75}, 0.9, [("ocelot", 0.25)], {10: None}),
        ...     Turn("tabby", 40, {0.05: 0.25}, 0.6, [("lynx", 0.75)], {10: True}),
        ... ]
        >>> rehearsal = Rehearsal(turns, [], (0.05,), 0.05, frozenset({"tabby"}), 0.1, "")
        >>> rehearsal.noticed().mean, rehearsal.noticed(among="met").mean
        (0.5, 0.25)
        >>> rehearsal.found(10)[:2], rehearsal.weakest().class_name
        ((1, 1), 'tabby')
        >>> Rehearsal.from_json(rehearsal.to_json()) == rehearsal
        True
    """

    turns: list[Turn]
    beside: list[Turn]
    levels: tuple[float, ...]
    served: float
    met: frozenset[str]
    prevalence: float
    cannot_tell: str

    def noticed(
        self, level: float | None = None, *, among: Among = "all", beside: bool = False
    ) -> Figure:
        """Return the share of images that are noticed, over classes.

        Args:
            level: Of false alarm; ``None``: the served one.
            among: All classes, those that the backbone has met, or the others.
            beside: Of the turns with the classes most like them.

        Raises:
            ConfigError: There is no such level.
        """
        chosen = self.served if level is None else level
        if chosen not in self.levels:
            raise ConfigError(
                f"rehearsal: false alarm must be one of {', '.join(map(str, self.levels))}; "
                f"received {chosen}"
            )
        turns = self._among(among, beside)
        return over_classes([t.noticed[chosen] for t in turns], [t.images for t in turns])

    def auroc(self, *, among: Among = "all", beside: bool = False) -> Figure:
        """Return the AUROC of each turn, averaged; those of different turns are never pooled."""
        turns = self._among(among, beside)
        return over_classes([t.auroc for t in turns], [t.images for t in turns])

    def precision(self, prevalence: float, level: float | None = None) -> float:
        """Return the share of alarms that are right if a share of the stream is new."""
        chosen = self.served if level is None else level
        return precision_at(prevalence, self.noticed(chosen).mean, chosen)

    def found(self, images: int) -> Share:
        """Return for how many classes so many images were found, of those that could be tried."""
        tried = [t.found[images] for t in self.turns if t.found.get(images) is not None]
        return share(sum(bool(hit) for hit in tried), len(tried))

    def weakest(self) -> Turn | None:
        """Return the class that is noticed least, on a tie the first by name."""
        return min(self.turns, key=lambda t: (t.noticed[self.served], t.class_name), default=None)

    def frame(self) -> pd.DataFrame:
        """Return one row per turn: turn, class, images, noticed, auroc, found, taken for, met.

        ``noticed 5 %`` and ``found 30`` are columns of their own for each level and each number of
        images; ``new`` are all classes that were new in the turn.
        """
        import pandas as pd

        turns = [*self.turns, *self.beside]
        return pd.DataFrame([self._row(number, turn) for number, turn in enumerate(turns)])

    def to_json(self) -> str:
        """Return everything as a JSON document."""
        fields = self._asdict() | {
            "met": sorted(self.met),
            "turns": [turn_to_plain(turn) for turn in self.turns],
            "beside": [turn_to_plain(turn) for turn in self.beside],
        }
        return json.dumps({"format_version": FORMAT_VERSION, **fields}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Rehearsal:
        """Return the rehearsal that `to_json` wrote.

        Raises:
            ValueError: The document has a newer format.
        """
        fields: dict[str, Any] = json.loads(text)
        version = fields.pop("format_version")
        if version > FORMAT_VERSION:
            raise ValueError(f"a rehearsal in format {version}; expected <= {FORMAT_VERSION}")
        return cls(
            turns=[turn_from_plain(turn) for turn in fields["turns"]],
            beside=[turn_from_plain(turn) for turn in fields["beside"]],
            levels=tuple(fields["levels"]),
            served=fields["served"],
            met=frozenset(fields["met"]),
            prevalence=fields["prevalence"],
            cannot_tell=fields["cannot_tell"],
        )

    def _among(self, among: Among, beside: bool) -> Sequence[Turn]:
        turns = self.beside if beside else self.turns
        if among == "all":
            return turns
        return [turn for turn in turns if (turn.class_name in self.met) == (among == "met")]

    def _row(self, number: int, turn: Turn) -> dict[str, Any]:
        nearest = turn.taken_for[0][0] if turn.taken_for else ""
        return {
            "turn": number,
            "class": turn.class_name,
            "new": tuple(sorted([turn.class_name, *turn.together])),
            "images": turn.images,
            "noticed": turn.noticed[self.served],
            **{f"noticed {100 * level:g} %": rate for level, rate in turn.noticed.items()},
            "auroc": turn.auroc,
            **{f"found {images}": hit for images, hit in turn.found.items()},
            "taken for": nearest,
            "met": turn.class_name in self.met,
        }


def turn_to_plain(turn: Turn) -> dict[str, Any]:
    """Return a turn as values of JSON."""
    return turn._asdict()


def turn_from_plain(plain: dict[str, Any]) -> Turn:
    """Return a turn from values of JSON, where the keys of mappings are texts."""
    return Turn(
        class_name=plain["class_name"],
        images=plain["images"],
        noticed={float(level): rate for level, rate in plain["noticed"].items()},
        auroc=plain["auroc"],
        taken_for=[(name, rate) for name, rate in plain["taken_for"]],
        found={int(images): hit for images, hit in plain["found"].items()},
        together=tuple(plain["together"]),
        too_few=tuple(plain.get("too_few", ())),
    )
