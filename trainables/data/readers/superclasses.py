"""Superclasses: those that a file names, and those of CIFAR-100."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from trainables.data.faults import some
from trainables.data.readers.rows import read_text
from trainables.errors import ConfigError

# the 20 superclasses of CIFAR-100, five classes each (Krizhevsky 2009)
CIFAR100 = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}


def read_superclasses(table: Path, names: tuple[str, ...]) -> tuple[int, ...]:
    """Read the superclass of each class and number them in alphabetical order.

    Raises:
        ConfigError: The file is no JSON object of texts, or lacks a class.
    """
    try:
        found = json.loads(read_text(table))
    except ValueError as error:
        raise ConfigError(f"{table} is no valid JSON: {error}") from None
    kinds = {type(value) for value in found.values()} if isinstance(found, dict) else set()
    if kinds not in ({str}, {int}):
        raise ConfigError(f"{table} must hold an object of texts: class name to superclass name")
    of_class = {unicodedata.normalize("NFC", name): value for name, value in found.items()}
    missing = [name for name in names if name not in of_class]
    if missing:
        raise ConfigError(f"{table} has no superclass for class {some(missing)}; add it")
    numbers = {name: n for n, name in enumerate(sorted({of_class[c] for c in names}))}
    return tuple(numbers[of_class[name]] for name in names)


def cifar100_superclasses(class_names: Sequence[str]) -> tuple[int, ...]:
    """Return the superclass (0..19, alphabetical) of each class name.

    Raises:
        ConfigError: A name is not a class of CIFAR-100.

    Example:
        >>> cifar100_superclasses(["beaver", "maple_tree", "maple tree"])
        (0, 17, 17)
    """
    of_class = {
        name: number for number, names in enumerate(CIFAR100.values()) for name in names.split()
    }
    unified = [name.lower().replace(" ", "_").replace("-", "_") for name in class_names]
    for name, original in zip(unified, class_names, strict=True):
        if name not in of_class:
            raise ConfigError(
                f"data.source=cifar100: '{original}' is not a class of CIFAR-100; "
                "use data.source=folder:PATH for other classes"
            )
    return tuple(of_class[name] for name in unified)
