"""Predictions as lines: for people, as JSON objects, or as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from orchestrator.answering.stream import Prediction
from trainables.errors import is_control, readable

SECOND_FROM = 0.1  # probability from which on the second class is shown
WIDEST = 60  # columns; a longer name moves its own line alone
Line = Callable[[Prediction], str]


class TextLines:
    """Lines for people: image, class, probability, and what else matters.

    An unknown image has no probability: the share of known images that look as strange is another
    scale, so it is in words. Columns are as wide as the names so far.

    Args:
        class_names: All classes of the model.
        images: Names of images that are known beforehand.

    Example:
        >>> lynx = Prediction(image="2.jpg", class_index=0, class_name="lynx", probability=0.61,
        ...     second_class="ocelot", second_probability=0.33, known=True, confidence=0.61,
        ...     pretrained_on="nothing")
        >>> TextLines(["lynx", "ocelot"])(lynx)
        '2.jpg   lynx       .61   (ocelot .33)'
    """

    def __init__(self, class_names: Sequence[str], images: Sequence[str] = ()) -> None:
        self._image_width = max((_width(readable(name)) for name in images), default=0)
        self._class_width = max(_width(readable(name)) for name in [*class_names, "unknown"])

    def __call__(self, prediction: Prediction) -> str:
        """Return the line of a prediction."""
        self._image_width = max(self._image_width, _width(prediction.image))
        shown = readable(prediction.class_name) if prediction.known else "unknown"
        probability = _two_digits(prediction.probability) if prediction.known else ""
        parts = (
            _padded(prediction.image, self._image_width),
            _padded(shown, self._class_width),
            f"{probability:>4}",
            _note(prediction),
        )
        return "   ".join(parts).rstrip()


def json_line(prediction: Prediction) -> str:
    """Return a prediction as a JSON object in one line, control characters escaped."""
    text = prediction.model_dump_json()  # leaves those above 127 as they are
    return "".join(f"\\u{ord(c):04x}" if is_control(c) else c for c in text)


def csv_header() -> str:
    """Return the first line of a CSV."""
    return _csv(Prediction.model_fields)


def csv_line(prediction: Prediction) -> str:
    """Return a prediction as a line of CSV; what is absent is empty, several names have ``;``."""
    values = prediction.model_dump()
    values["met_classes"] = ";".join(prediction.met_classes)
    values["known"] = "true" if prediction.known else "false"
    return _csv(readable(v) if isinstance(v, str) else v for v in values.values())


def _csv(values: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)  # type: ignore[arg-type]
    return text.getvalue()


def _note(prediction: Prediction) -> str:
    """Return the second class where it matters, or what an unknown image is near to."""
    if not prediction.known:
        strange = _strangeness(prediction.share, prediction.known_images)
        nearest = f"nearest: {readable(prediction.class_name)}"
        return f"{nearest}; {strange}" if strange else nearest
    second = prediction.second_probability
    if second is None or second < SECOND_FROM:
        return ""
    return f"({readable(prediction.second_class or '')} {_two_digits(second)})"


def _strangeness(share: float | None, images: int | None) -> str:
    """Say which share of known images looks as strange.

    Example:
        >>> _strangeness(3 / 900, 900), _strangeness(0.0, 900)
        ('1 in 300 known images looks as strange', 'none of 900 known images looks as strange')
        >>> _strangeness(0.62, 50), _strangeness(0.4, 50)
        ('6 in 10 known images look as strange', '4 in 10 known images look as strange')
    """
    if share is None or images is None:
        return ""
    if share == 0:
        return f"none of {images:,} known images looks as strange"
    if share >= 0.4:  # 1 in 2, 1 in 1 would be too coarse
        return f"{round(10 * share)} in 10 known images look as strange"
    return f"1 in {round(1 / share):,} known images looks as strange"


def _two_digits(probability: float) -> str:
    """Return a probability without the leading zero; none is called certain.

    Example:
        >>> _two_digits(0.974), _two_digits(0.9999), _two_digits(0.001)
        ('.97', '>.99', '<.01')
    """
    if probability > 0.99:
        return ">.99"
    return f"{probability:.2f}".lstrip("0") if probability >= 0.01 else "<.01"


def _padded(text: str, width: int) -> str:
    return text + " " * (min(width, WIDEST) - _width(text))


def _width(text: str) -> int:
    """Return the columns of a terminal that a text takes."""
    from rich.cells import cell_len

    return cell_len(text)
