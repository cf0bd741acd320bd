"""What a trunk's weights were trained on: its origin in words, its labels, digests of its images.

New classes are new to a model only if its trunk has not learnt them before. Our own trunks and
timm's weights say where they come from; of any other file it is not known, whatever a recipe says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import Backbone, ImageView, LabelledView, load_artifact
from trainables.weights.label_sets import labels_of_config, sets_in_words

NOTHING = "nothing"
MOST_NAMES = 10  # of classes in a sentence
NOT_KNOWN = "not known"
TOGETHER = 64  # images that are read at once: files are decoded in parallel
OF_TIMM = "hf-hub:timm/"  # repositories of the library's own weights
ARTIFACT_FILE, TENSORS_FILE = "artifact.json", "tensors.safetensors"  # of an artifact


class Origin(NamedTuple):
    """Origin of pretrained weights.

    ``text`` says in words what they were trained on; ``labelled [N]`` int64 are digests of the
    images that they were trained on with labels, see `image_digests`. ``labels`` are the labels,
    or names of label sets, that they were trained with as far as anyone says; see
    `trainables.weights.label_sets.met_classes`.
    """

    text: str = NOTHING
    labelled: Tensor = torch.empty(0, dtype=torch.int64)
    labels: Sequence[str] = ()


def image_digests(*views: ImageView | LabelledView) -> Tensor:
    """Return 64 bits of the SHA-256 of each image's pixels ``[N]`` int64, ascending, each once.

    Example:
        >>> import numpy as np
        >>> images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
        >>> len(image_digests(ImageView(images, np.arange(3), "")))
        1
    """
    found: set[int] = set()
    for view in views:
        shape = str(view.images.shape[1:]).encode()
        for start in range(0, len(view.indices), TOGETHER):
            for image in view.images[view.indices[start : start + TOGETHER]]:
                pixels = hashlib.sha256(shape + image.tobytes()).digest()
                found.add(int.from_bytes(pixels[:8], "big", signed=True))
    return torch.tensor(sorted(found), dtype=torch.int64)


def union(*digests: Tensor) -> Tensor:
    """Return the digests of several tensors, ascending, each once."""
    joined: Tensor = torch.cat([torch.empty(0, dtype=torch.int64), *digests]).unique()
    return joined


def is_known(origin: str) -> bool:
    """Say whether an origin names what the weights were trained on.

    Example:
        >>> is_known("timm:resnet18.a1_in1k"), is_known("not known; the recipe says: my photos")
        (True, False)
    """
    return not origin.startswith(NOT_KNOWN)


def caution(origin: str, met: Sequence[str] = ()) -> str:
    """Return what a reader of figures on new classes must know about the trunk; may be empty.

    Args:
        origin: What the trunk was trained on, in words.
        met: Classes that it was trained on before, as far as labels tell.

    Example:
        >>> caution("nothing")
        ''
        >>> caution("timm:resnet18.a1_in1k")
        'pretrained on timm:resnet18.a1_in1k: classes that occur there are not new to the trunk'
        >>> caution("timm:resnet18.a1_in1k", ["tench"]).rpartition("; ")[2]
        'among them are 1: tench'
    """
    if origin == NOTHING:
        return ""
    more = f" and {len(met) - MOST_NAMES} more" if len(met) > MOST_NAMES else ""
    found = f"; among them are {len(met)}: {', '.join(met[:MOST_NAMES])}{more}" if met else ""
    if is_known(origin):
        return f"pretrained on {origin}: classes that occur there are not new to the trunk{found}"
    return (
        f"pretraining {origin}: figures on new classes are not clean, because the trunk may have "
        f"learnt these classes before{found}"
    )


def saw_labels_of(
    backbone: Backbone, withheld: Iterable[ImageView | LabelledView], own: LabelledView
) -> bool:
    """Say whether a trunk was pretrained with labels of images that a recipe withholds.

    Args:
        backbone: The trunk.
        withheld: Held-out images, and all images of new classes.
        own: Training images of the recipe, which may hold copies of others.
    """
    seen = backbone.pretraining_images
    if seen is None or not len(seen):
        return False
    hidden = image_digests(*withheld)
    overlap = hidden[torch.isin(hidden, seen)]
    return bool(len(overlap)) and not bool(torch.isin(overlap, image_digests(own)).all())


def with_labels_of(backbone: Backbone, view: ImageView | LabelledView) -> Backbone:
    """Return a trunk that was trained with labels of a view, which it did not see before."""
    seen = [] if backbone.training_images is None else [backbone.training_images]
    return backbone._replace(training_images=union(*seen, image_digests(view)))


def is_frozen(backbone: Backbone) -> bool:
    """Say whether a recipe uses pretrained weights as they came, so that other recipes have them.

    Example:
        >>> trunk = Backbone("resnet18", 224, 512, "timm:resnet18", {}, None, torch.empty(0))
        >>> is_frozen(trunk), is_frozen(trunk._replace(pretrained_on="nothing"))
        (True, False)
    """
    seen = backbone.training_images
    return backbone.pretrained_on != NOTHING and seen is not None and not len(seen)


# --- origins ----------------------------------------------------------------------------------


def origin_of_timm(config: Mapping[str, Any]) -> Origin:
    """Return the origin of timm's own weights, from their ``pretrained_cfg``.

    Example:
        >>> origin_of_timm({"architecture": "resnet18", "tag": "a1_in1k"}).text
        'timm:resnet18.a1_in1k'
    """
    name = _name(config)
    return Origin(f"timm:{name}" if name else NOT_KNOWN, labels=labels_of_config(config))


def origin_of_config(config: Mapping[str, Any], source: str) -> Origin:
    """Return the origin of weights beside a ``config.json``, which says what it wants.

    Args:
        config: Its ``pretrained_cfg``.
        source: Where it is from; repositories of timm itself are known.

    Example:
        >>> config = {"architecture": "resnet18", "tag": "a1_in1k"}
        >>> origin_of_config(config, "local-dir:/home/me/photos").text
        'not known; its config.json says: resnet18.a1_in1k'
    """
    if source.startswith(OF_TIMM):
        return origin_of_timm(config)
    name = _name(config) if config.get("tag") else ""
    text = f"{NOT_KNOWN}; its config.json says: {name}" if name else NOT_KNOWN
    return Origin(text, labels=labels_of_config(config))


def _name(config: Mapping[str, Any]) -> str:
    return ".".join(str(config[key]) for key in ("architecture", "tag") if config.get(key))


def origin_of_file(
    trunk: Backbone | None,
    image_size: int,
    *,
    stated: str = "",
    config: Mapping[str, Any] = MappingProxyType({}),
) -> Origin:
    """Return the origin of a checkpoint file, which is known for tensors of our own trunks alone.

    Args:
        trunk: What `own_trunk` returns for the file.
        image_size: Size of the images that the weights are used for; digests of images of other
            sizes can't be compared.
        stated: What the recipe says about the file, which is only repeated.
        config: What ``config.json`` beside the file says.
    """
    if trunk is None or trunk.training_images is None or trunk.pretraining_images is None:
        text = f"{NOT_KNOWN}; the recipe says: {stated}" if stated else NOT_KNOWN
        return Origin(text, labels=sets_in_words(stated) or labels_of_config(config))
    labelled = union(trunk.pretraining_images, trunk.training_images)
    labels = f"{len(labelled)} labelled images" if len(labelled) else "images without labels"
    before = [] if trunk.pretrained_on == NOTHING else [trunk.pretrained_on]
    text = ", then ".join([*before, f"{labels} of another recipe"])
    if len(labelled) and trunk.image_size != image_size and is_known(text):
        text = f"{NOT_KNOWN}: {text}, {trunk.image_size} pixels wide, here {image_size}"
    return Origin(text, labelled, trunk.pretraining_labels)


def own_trunk(path: Path) -> Backbone | None:
    """Return the trunk whose tensors a file holds; ``None`` for a file that is of no artifact.

    The file ``artifact.json`` beside ``tensors.safetensors`` tells an artifact.
    """
    try:
        document = json.loads((path.parent / ARTIFACT_FILE).read_text(encoding="utf-8"))
        ours = path.name == TENSORS_FILE and document["type"] == Backbone.__name__
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return load_artifact(Backbone, path.parent) if ours else None
