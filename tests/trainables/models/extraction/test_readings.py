"""Layers and poolings of one pass: bit by bit those of passes of their own, and known after it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.store.stage_store import StageStore
from trainables.artifacts import ImageView
from trainables.models.backbone import Trunk, build_trunk, extract_features
from trainables.models.extraction.readings import OnePass, choices, family_name
from trainables.models.extraction.stored_features import trunk_name
from trainables.weights.depth import with_layer
from trainables.weights.pooling import with_pooling

SIZE = 64
OFFERED = {
    "resnet18": ("max", "gem"),
    "efficientnet_lite0": ("max", "gem"),
    "test_vit": ("average", "max"),
}


def trunk(name: str, layer: int = 0, pooling: str = "default") -> Trunk:
    draws = torch.Generator().manual_seed(1)
    text = with_pooling(with_layer(name, layer), pooling)
    return build_trunk(text, SIZE, generator=draws).eval()


def pixels(count: int) -> np.ndarray:
    draws = np.random.default_rng(2)
    return draws.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def batch(count: int = 3) -> Tensor:
    return torch.from_numpy(pixels(count)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", OFFERED)
def test_one_pass_gives_what_passes_of_their_own_give(name: str) -> None:
    with torch.inference_mode():
        one_pass = OnePass(trunk(name), batch(1))
        own, others = one_pass(batch())
        assert torch.equal(own, trunk(name)(batch()))
        poolings = OFFERED[name]
        wanted = {(0, p) for p in poolings} | {(1, p) for p in ("default", *poolings)}
        assert {(r.layer, r.pooling) for r in one_pass.readings} == wanted
        for layer, pooling in wanted:
            alone = trunk(name, layer, pooling)
            assert torch.equal(others.pop(trunk_name(alone)), alone(batch())), (layer, pooling)
        assert not others


@pytest.mark.parametrize("name", OFFERED)
def test_only_poolings_that_a_trunk_has_are_offered(name: str) -> None:
    found = choices(trunk(name), batch(1))
    assert found.poolings == OFFERED[name]
    assert found.layers == (0, 1)


def test_a_network_that_cannot_be_shortened_offers_its_poolings_alone() -> None:
    assert choices(build_trunk("test_convnext", SIZE).eval(), batch(1)) == ((0,), ("max", "gem"))
    assert choices(build_trunk("fastnet", SIZE).eval(), batch(1)) == ((0,), ())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "test_vit"])
def test_after_one_extraction_all_readings_are_known(name: str, tmp_path: Path) -> None:
    view = ImageView(pixels(7), np.arange(7), "d")
    network, passes = trunk(name), []
    first = next(part for part in network.network.modules() if isinstance(part, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, given, found: passes.append(len(given[0])))
    store = StageStore(str(tmp_path)).features
    store.readings = True
    extract_features(network, view, batch_size=3, store=store)
    assert [size for size in passes if size > 1] == [3, 3], "what is tried is tried on one image"

    def never(images: Tensor) -> Tensor:
        raise AssertionError("a second pass")

    later = StageStore(str(tmp_path)).features
    for layer in (0, 1):
        for pooling in ("default", *OFFERED[name]):
            alone = trunk(name, layer, pooling)
            found = extract_features(alone, view, compute=never, store=later)
            expected = extract_features(alone, view, batch_size=3)
            assert torch.equal(found, expected), (layer, pooling)
    assert later.written == 0


def test_without_a_search_a_pass_keeps_the_trunk_s_own_features_alone(tmp_path: Path) -> None:
    store = StageStore(str(tmp_path)).features
    extract_features(trunk("resnet18"), ImageView(pixels(2), np.arange(2), "d"), store=store)
    assert [p.name for p in (tmp_path / "features").iterdir()] == [trunk_name(trunk("resnet18"))]


def test_two_trials_that_read_one_trunk_take_turns(tmp_path: Path) -> None:
    names = [family_name(trunk("resnet18", n, p)) for n, p in ((0, "default"), (1, "max"))]
    assert names[0] == names[1] != family_name(trunk("test_vit"))
    inside, order = threading.Event(), []

    def second() -> None:
        inside.wait()
        with StageStore(str(tmp_path)).features.alone(names[1]):
            order.append("second")

    other = threading.Thread(target=second)
    other.start()
    with StageStore(str(tmp_path)).features.alone(names[0]):
        inside.set()
        other.join(timeout=0.5)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
