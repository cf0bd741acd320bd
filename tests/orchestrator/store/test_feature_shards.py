"""Features of frozen trunks, kept image by image: on folders and on object stores."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow.fs import FileSystem
from torch import Tensor

from orchestrator.store.feature_shards import FOLDER, FeatureShards
from orchestrator.store.filesystem import LocalBackend, RemoteBackend, StorageBackend
from trainables.artifacts import ImageView
from trainables.models.backbone import Trunk, build_trunk, extract_features
from trainables.models.extraction import stored_features
from trainables.models.extraction.stored_features import image_names, trunk_name
from trainables.weights.pooling import set_pooling

SIZE = 16


@pytest.fixture(params=["path", "memory"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
    if request.param == "path":
        return LocalBackend(tmp_path / "runs")
    return RemoteBackend(FileSystem.from_uri("mock:///")[0], "bucket", "mock://bucket")


def images(count: int, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    return draws.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def view_of(pixels: np.ndarray, order: list[int] | None = None) -> ImageView:
    return ImageView(pixels, np.array(order or range(len(pixels)), dtype=np.int64), "d")


def counted(trunk: Trunk, seen: list[int]) -> Callable[[Tensor], Tensor]:
    """Return the trunk as a function that notes how many images it computes."""

    def compute(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return trunk(batch)

    return compute


def trunk() -> Trunk:
    return build_trunk("fastnet", SIZE, generator=torch.Generator().manual_seed(0))


def files(backend: StorageBackend, name: str) -> list[str]:
    return sorted(entry.name for entry in backend.entries(f"{FOLDER}/{name}"))


def test_only_new_images_are_computed(backend: StorageBackend) -> None:
    pixels, network, seen = images(20), trunk(), []
    compute = counted(network, seen)
    first = extract_features(
        network, view_of(pixels[:12]), compute=compute, store=FeatureShards(backend)
    )
    assert sum(seen) == 12
    # a grown set in another order, asked for by another process
    order = list(np.random.default_rng(1).permutation(20))
    seen.clear()
    grown = extract_features(
        network, view_of(pixels, order), compute=compute, store=FeatureShards(backend)
    )
    assert sum(seen) == 8
    places = torch.tensor([order.index(row) for row in range(12)])
    assert torch.equal(grown[places], first)
    wanted = extract_features(network, view_of(pixels, order))
    torch.testing.assert_close(grown, wanted, rtol=1e-5, atol=1e-5)


def test_an_image_that_occurs_twice_is_computed_once(backend: StorageBackend) -> None:
    pixels, network, seen = images(3), trunk(), []
    twice = view_of(pixels, [0, 1, 0, 2, 1, 0])
    store = FeatureShards(backend)
    found = extract_features(network, twice, compute=counted(network, seen), store=store)
    assert sum(seen) == 3
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[4])
    torch.testing.assert_close(found, extract_features(network, twice), rtol=1e-5, atol=1e-5)
    seen.clear()
    again = extract_features(network, twice, compute=counted(network, seen), store=store)
    assert seen == []
    assert torch.equal(again, found)


def test_an_interrupted_extraction_goes_on(
    backend: StorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_features, "SAVE_ROWS", 4)
    pixels, network, seen = images(20), trunk(), []
    compute = counted(network, seen)

    def killed(batch: Tensor) -> Tensor:
        if sum(seen) >= 10:
            raise KeyboardInterrupt
        return compute(batch)

    store = FeatureShards(backend)
    with pytest.raises(KeyboardInterrupt):
        extract_features(network, view_of(pixels), batch_size=2, compute=killed, store=store)
    assert sum(seen) == 10
    found = extract_features(network, view_of(pixels), compute=compute, store=store)
    assert sum(seen) == 20
    wanted = extract_features(network, view_of(pixels))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_killed_extraction_loses_only_what_was_not_written(
    backend: StorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_features, "SAVE_ROWS", 4)
    network, pixels, seen = trunk(), images(20), []
    store = FeatureShards(backend)
    rows = stored_features.StoredRows(
        store, network, pixels, np.arange(20), torch.zeros(20, network.num_features)
    )
    for start in range(0, 6, 2):  # and the process is gone: nobody closes the block
        rows.computed([start, start + 1])
    extract_features(
        network, view_of(pixels), compute=counted(network, seen), store=FeatureShards(backend)
    )
    assert sum(seen) == 16


def test_other_weights_another_precision_and_other_pixels_have_other_features(
    backend: StorageBackend,
) -> None:
    network, pixels, store = trunk(), images(4), FeatureShards(backend)
    before = trunk_name(network)
    assert before == trunk_name(trunk())
    first = extract_features(network, view_of(pixels), store=store)
    with torch.no_grad():
        next(network.network.parameters()).mul_(1.5)
    moved = extract_features(network, view_of(pixels), store=store)
    assert trunk_name(network) != before
    assert not torch.equal(moved, first)
    other = trunk()
    other.mean.add_(0.1)
    assert trunk_name(other) != before
    assert trunk_name(trunk().to(torch.bfloat16)) != before
    assert image_names(pixels, np.arange(4)) != image_names(pixels + 1, np.arange(4))


@pytest.mark.parametrize("network", ["vit_tiny_patch16_224", "resnet18"])
def test_another_pooling_has_another_name(network: str) -> None:
    first, second = build_trunk(network, 32), build_trunk(network, 32)
    assert trunk_name(first.train()) == trunk_name(second.eval())
    set_pooling(second.network, "max", network)
    assert first.state_dict().keys() == second.state_dict().keys()
    assert trunk_name(first) != trunk_name(second)


def test_a_damaged_file_is_computed_again(
    backend: StorageBackend, caplog: pytest.LogCaptureFixture
) -> None:
    network, pixels, seen = trunk(), images(6), []
    wanted = extract_features(network, view_of(pixels), store=FeatureShards(backend))
    name = trunk_name(network)
    (only,) = files(backend, name)
    path = f"{FOLDER}/{name}/{only}"
    content = bytearray(backend.read(path) or b"")
    content[-1] ^= 1
    backend.remove_file(path)
    backend.put(path, bytes(content))
    found = extract_features(
        network, view_of(pixels), compute=counted(network, seen), store=FeatureShards(backend)
    )
    assert sum(seen) == 6
    assert torch.equal(found, wanted)
    assert "is damaged; its features are computed again" in caplog.text
    assert files(backend, name) == [only]  # the same features, whole again


def test_a_half_written_file_is_left_alone(tmp_path: Path) -> None:
    backend, network, pixels = LocalBackend(tmp_path), trunk(), images(6)
    store = FeatureShards(backend)
    extract_features(network, view_of(pixels), store=store)
    (only,) = files(backend, trunk_name(network))
    folder = tmp_path / FOLDER / trunk_name(network)
    (folder / f"tmp-{only}-0").write_bytes((folder / only).read_bytes()[:100])
    seen: list[int] = []
    extract_features(
        network, view_of(pixels), compute=counted(network, seen), store=FeatureShards(backend)
    )
    assert seen == []
