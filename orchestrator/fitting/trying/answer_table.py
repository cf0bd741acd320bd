"""Answers out of fold of all variants, computed once per family and kept in the stage store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from orchestrator.fitting.trying.variants import families
from orchestrator.store.manifest import Computed
from orchestrator.store.stage_store import StageStore
from trainables.artifacts import Classifier
from trainables.closed_form.statistics import Samples
from trainables.features.rebalancer_search import answer_out_of_fold
from trainables.keys import code_digest, modules_of
from trainables.methods.rebalancers import Rebalancer
from trainables.settings import canonical_json

STAGE = "variants"  # folder of the results in the store
SEED = 0  # of the folds of what has no closed form
NO_ANSWER = -1

Progress = Callable[[int, int], None]


class AnswerTable(NamedTuple):
    """Predicted class of N images by V variants that were fitted without the image's group.

    ``predicted [V, N]`` is int16 in the order of `list_variants`, ``surprise [V]`` the mean
    cross-entropy of the logits, float64; a variant without an answer has `NO_ANSWER` and infinity.
    """

    predicted: Tensor
    surprise: Tensor


def answer_all(
    variants: Sequence[Rebalancer],
    classifier: Classifier,
    data: Samples,
    *,
    store: StageStore,
    content: Sequence[str],
    progress: Progress,
    in_time: Callable[[], bool] = lambda: True,
) -> AnswerTable:
    """Return the answers of the variants; families that are stored are not computed again.

    Args:
        variants: The variants.
        classifier: Tells classes and counts.
        data: Features, labels and groups of the training images.
        store: Where results are kept.
        content: What determines ``data`` and ``classifier``: keys of stage results.
        progress: Told how many variants are done, and how many there are.
        in_time: Asked before each family but the first; where it says no, the others are left
            without an answer.
    """
    predicted = torch.full((len(variants), len(data.labels)), NO_ANSWER, dtype=torch.int16)
    surprise = torch.full((len(variants),), torch.inf, dtype=torch.float64)
    done = 0
    for name in families(variants):
        if done and not in_time():
            break
        places = [n for n, method in enumerate(variants) if method.name == name]
        own = [variants[place] for place in places]

        def count(more: int, before: int = done) -> None:
            progress(before + more, len(variants))

        def compute(
            folder: Path, own: Sequence[Rebalancer] = own, count: Callable[[int], None] = count
        ) -> Computed:
            return Computed({"answers": _answered(own, classifier, data, count)}, [])

        key = _key(own, content)
        stored = store.get_or_compute(STAGE, key, {"answers": AnswerTable}, compute)
        found: AnswerTable = stored.artifacts["answers"]
        predicted[places], surprise[places] = found.predicted, found.surprise
        done += len(own)
        progress(done, len(variants))
    return AnswerTable(predicted, surprise)


def _key(variants: Sequence[Rebalancer], content: Sequence[str]) -> str:
    """Return the key of one family's answers (SHA-256, hex)."""
    modules = {name for method in variants for name in modules_of(method)}
    modules.add(answer_out_of_fold.__module__)
    parts: list[Any] = [
        [method.dump() for method in variants],
        [*content],
        code_digest(tuple(sorted(modules))),
        torch.__version__.split(".")[:2],
    ]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _answered(
    variants: Sequence[Rebalancer],
    classifier: Classifier,
    data: Samples,
    count: Callable[[int], None],
) -> AnswerTable:
    predicted = torch.full((len(variants), len(data.labels)), NO_ANSWER, dtype=torch.int16)
    surprise = torch.full((len(variants),), torch.inf, dtype=torch.float64)
    for number, (place, logits) in enumerate(_logits(variants, classifier, data), 1):
        predicted[place] = logits.argmax(1).to(torch.int16).cpu()
        entropy = torch.nn.functional.cross_entropy(logits.double(), data.labels)
        surprise[place] = float(entropy)
        count(number)
    return AnswerTable(predicted, surprise)


def logits_out_of_fold(method: Rebalancer, classifier: Classifier, data: Samples) -> Tensor:
    """Return the logits of a variant ``[N, C]`` whose answers are in the table.

    Args:
        method: The variant.
        classifier: Tells classes and counts.
        data: Features, labels and groups of the training images.
    """
    ((_, logits),) = _logits([method], classifier, data)
    return logits


def _logits(
    variants: Sequence[Rebalancer], classifier: Classifier, data: Samples
) -> Iterator[tuple[int, Tensor]]:
    """Yield logits out of fold of each variant, with its index."""
    available = {
        "classifier": classifier,
        "class_counts": classifier.class_counts,
        "features": data.features,
        "labels": data.labels,
        "groups": data.groups,
    }
    return answer_out_of_fold(variants, available, data, seed=SEED)
