"""Labels that weights were trained with, and which of a user's classes have one among them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

# name of a label set as timm knows it, by its sign in a tag such as `augreg_in21k_ft_in1k`
SETS = {
    "in1k": "imagenet-1k",
    "in12k": "imagenet-12k",
    "in21k": "imagenet-21k-goog",
    "in22k": "imagenet-22k",
}
_STATED = re.compile(r"imagenet[-_ ]?(1k|12k|21k|22k)?(?![0-9a-z])", re.IGNORECASE)


def sets_of_tag(tag: str) -> tuple[str, ...]:
    """Return the label sets that a tag of timm names.

    Example:
        >>> sets_of_tag("augreg_in21k_ft_in1k"), sets_of_tag("lvd142m")
        (('imagenet-21k-goog', 'imagenet-1k'), ())
    """
    return tuple(SETS[word] for word in tag.split("_") if word in SETS)


def sets_in_words(text: str) -> tuple[str, ...]:
    """Return the label sets that a sentence names; ImageNet without a size has 1,000 labels.

    Example:
        >>> sets_in_words("my photos"), sets_in_words("ImageNet, then ImageNet-21k")
        ((), ('imagenet-1k', 'imagenet-21k-goog'))
    """
    found = (SETS[f"in{(size or '1k').lower()}"] for size in _STATED.findall(text))
    return tuple(dict.fromkeys(found))


def labels_of_config(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the labels, or names of label sets, that a config of timm tells.

    Example:
        >>> labels_of_config({"label_names": ["n01", "n02"], "label_descriptions": {"n01": "cat"}})
        ('n01', 'n02', 'cat')
        >>> labels_of_config({"tag": "ra_in1k"})
        ('imagenet-1k',)
    """
    names, texts = config.get("label_names") or (), config.get("label_descriptions") or {}
    described = texts.values() if isinstance(texts, Mapping) else texts
    told = tuple(str(label) for label in (*names, *described))
    return told or sets_of_tag(str(config.get("tag") or ""))


def met_classes(class_names: Iterable[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Return the classes that weights were trained on before, as far as their labels tell.

    A class is met if it is one of a label's names, or the noun that ends one: ``cat`` is met by
    ``Egyptian cat``, and ``red_fox`` by ``red fox, Vulpes vulpes``. A class of another word, such
    as ``airplane`` for ``airliner``, is not found.

    Args:
        class_names: Names of a user's classes.
        labels: Labels, each with its names between commas, or names of label sets (`SETS`).

    Example:
        >>> met_classes(["cat", "hot", "red_fox"], ["Egyptian cat", "hot dog", "red fox, Vulpes"])
        ('cat', 'red_fox')
        >>> met_classes(["tench", "gadget"], ["imagenet-1k"])
        ('tench',)
    """
    known = _endings(tuple(labels))
    return tuple(name for name in class_names if _plain(name) in known)


@cache
def _endings(labels: tuple[str, ...]) -> frozenset[str]:
    """Return every name of every label, and the words that end it."""
    found: set[str] = set()
    for label in labels:
        for text in _spelled_out(label):
            for name in text.split(","):
                words = _plain(name).split(" ")
                found.update(" ".join(words[start:]) for start in range(len(words)))
    return frozenset(found - {""})


@cache
def _spelled_out(label: str) -> tuple[str, ...]:
    """Return the labels of a label set by synset and words; any other label as it is."""
    if label not in SETS.values():
        return (label,)
    from timm.data import ImageNetInfo

    info = ImageNetInfo(label)
    return (*info.label_names(), *info.label_descriptions())


def _plain(name: str) -> str:
    """Return a name in small letters, with one space between words."""
    return " ".join(re.split(r"[\s_\-]+", name.strip().lower()))
