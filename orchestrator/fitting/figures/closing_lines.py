"""The last lines of a fit: suspect labels, what was compared, the verdict, and what comes next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from orchestrator.fitting.fit_record import FitRecord
from orchestrator.fitting.progress_lines import duration
from orchestrator.options import command, remedies
from orchestrator.registry.verdicts import COMPARISON, summary

SHOWN = 5  # names in a line
OVERALL = "overall"  # the gate of balanced accuracy
NO_CHAMPION = "and no version answers yet"


def suspects_lines(record: FitRecord) -> list[str]:
    """Return how many labels may be wrong and where they can be corrected; nothing without any."""
    found = [f"{count:,} {part}" for part, count in record.suspects.items() if count]
    left = record.not_doubted
    more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    untold = [
        f"labels of {', '.join(left[:SHOWN])}{more} are not doubted: the model does not tell "
        f"{'this class' if len(left) == 1 else 'these classes'} well enough"
    ]
    untold = untold if left else []
    if not found:
        return untold
    total, table = sum(record.suspects.values()), shlex.quote(record.suspects_file)
    what = "label" if total == 1 else "labels"
    return [
        f"{total:,} {what} may be wrong ({', '.join(found)}): correct the column label in "
        f"{table}, then give the same command --labels {table}",
        *untold,
    ]


def compared_lines(record: FitRecord) -> list[str]:
    """Return on which images a later version was compared with the champion, and how it did."""
    promotion = record.promotion
    if promotion is None or promotion.version in (None, "1"):
        return []
    told = [g.reason for g in promotion.gates if g.name in (COMPARISON, OVERALL)]
    return [reason.replace("test/images", "test images") for reason in told]


def verdict(record: FitRecord) -> str:
    """Return which version answers, and what the gates said."""
    promotion = record.promotion
    if promotion is None:
        return f"{record.model}: nothing was registered"
    if promotion.version is None:
        refused = "; ".join(gate.reason for gate in promotion.gates)
        return f"{record.model} was not registered: {refused}"
    name = f"{record.model} version {promotion.version}"
    if promotion.promoted:
        said = summary(promotion)
        return f"{name} is champion: {said}.   {duration(record.seconds)}.   {record.report}"
    refusing = "; ".join(f"{g.name}: {g.reason}" for g in promotion.gates if not g.passed)
    stays = f"version {promotion.champion} stays champion" if promotion.champion else NO_CHAMPION
    return f"{name} was refused, {stays}: {refusing}"


def answers(record: FitRecord) -> bool:
    """Say whether the model has a version that answers."""
    promotion = record.promotion
    return promotion is not None and (promotion.promoted or promotion.champion is not None)


def next_commands(record: FitRecord, example: Path | None) -> list[str]:
    """Return commands that can be copied and run.

    Args:
        record: The fit.
        example: An image to show.
    """
    if record.promotion is None or record.promotion.version is None:
        return []
    told: Mapping[str, str] = {"storage": record.storage, "model": record.model}
    page = command(f"report {shlex.quote(record.model)}", storage=record.storage)
    lines = [
        (page, "confusions, suspect labels, images it is most surely wrong about"),
        (command("promote list", **told), "versions and their figures"),
    ]
    if record.deeper is None and record.deeper_seconds and record.asked:
        minutes = round(record.deeper_seconds / 60)
        took = f"{minutes:,} min" if minutes > 1 else duration(record.deeper_seconds)
        deeper = command(f"{record.asked} --deeper", **told)
        lines.insert(0, (deeper, f"also fine-tune the backbone (about {took} here)"))
    for remedy in remedies(record.promotion, record.storage):
        words, _, what = remedy.partition("   ")
        lines.append((words, what))
    if example is not None and answers(record):
        asked = command(f"predict {shlex.quote(str(example))}", **told)
        lines.insert(0, (asked, "what is in an image"))
    width = max(len(words) for words, _ in lines)
    return [f"{words:<{width}}   {what}" for words, what in lines]
