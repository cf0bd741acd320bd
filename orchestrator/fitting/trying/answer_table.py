"""Answers of all variants, out of fold or to validation images, once per family, in the store."""

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
from trainables.features.predict import predict_logits
from trainables.features.rebalancer_search import answer_out_of_fold, apply_in_batch
from trainables.keys import code_digest, modules_of
from trainables.methods.rebalancers import Rebalancer
from trainables.settings import canonical_json

STAGE = "variants"  # folder of the results in the store
SEED = 0  # of the folds of what has no closed form
NO_ANSWER = -1

Progress = Callable[[int, int], None]


class AnswerTable(NamedTuple):
    """Predicted class of N images by V variants that were fitted without the image's group.

    The images are those of training, or the folder's own validation images.

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
    asked: Samples | None = None,
    progress: Progress,
    in_time: Callable[[], bool] = lambda: True,
) -> AnswerTable:
    """Return the answers of the variants; families that are stored are not computed again.

    Args:
        variants: The variants.
        classifier: Tells classes and counts.
        data: Features, labels and groups of the training images.
        store: Where results are kept.
        content: What determines ``data``, ``classifier`` and ``asked``: keys of stage results.
        asked: Validation images, which are answered by fits to all training images; ``None``: the
            training images are answered out of fold.
        progress: Told how many variants are done, and how many there are.
        in_time: Asked before each family but the first; where it says no, the others are left
            without an answer.
    """
    predicted, surprise = _no_answers(variants, data if asked is None else asked)
    what = [*content] if asked is None else [*content, "validation"]
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
            return Computed({"answers": _answered(own, classifier, data, asked, count)}, [])

        key = _key(own, what)
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
    asked: Samples | None,
    count: Callable[[int], None],
) -> AnswerTable:
    labels = data.labels if asked is None else asked.labels
    predicted, surprise = _no_answers(variants, data if asked is None else asked)
    for number, (place, logits) in enumerate(_logits(variants, classifier, data, asked), 1):
        predicted[place] = logits.argmax(1).to(torch.int16).cpu()
        entropy = torch.nn.functional.cross_entropy(logits.double(), labels)
        surprise[place] = float(entropy)
        count(number)
    return AnswerTable(predicted, surprise)


def _no_answers(variants: Sequence[Rebalancer], images: Samples) -> AnswerTable:
    predicted = torch.full((len(variants), len(images.labels)), NO_ANSWER, dtype=torch.int16)
    return AnswerTable(predicted, torch.full((len(variants),), torch.inf, dtype=torch.float64))


def logits_out_of_fold(method: Rebalancer, classifier: Classifier, data: Samples) -> Tensor:
    """Return the logits of a variant to the training images ``[N, C]``, out of fold.

    Args:
        method: The variant.
        classifier: Tells classes and counts.
        data: Features, labels and groups of the training images.
    """
    ((_, logits),) = _logits([method], classifier, data)
    return logits


def _logits(
    variants: Sequence[Rebalancer],
    classifier: Classifier,
    data: Samples,
    asked: Samples | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield each variant's logits of the asked images, or out of fold, with its index."""
    available = {
        "classifier": classifier,
        "class_counts": classifier.class_counts,
        "features": data.features,
        "labels": data.labels,
        "groups": data.groups,
    }
    if asked is None:
        yield from answer_out_of_fold(variants, available, data, seed=SEED)
        return
    for place, fitted in apply_in_batch(variants, available, seed=SEED).items():
        yield place, predict_logits(fitted, asked.features)
