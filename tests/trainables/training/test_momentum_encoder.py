"""Keys of a following encoder and their queue: order of a step, moving average, ring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from trainables.context import Context
from trainables.data.views import Views, build_views
from trainables.experiment import load_experiment
from trainables.pipeline import plan, run_step
from trainables.settings import assign
from trainables.training import momentum_encoder as momentum_keys
from trainables.training.momentum_encoder import MomentumKeys

ALONE = Context()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, generator=seeded(seed))


def encoder(value: float = 1.0) -> nn.Linear:
    linear = nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.fill_(value).mul_(torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.0, 3.0]]))
        linear.bias.fill_(value)
    return linear


def given(keys: MomentumKeys, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found: tuple[torch.Tensor, torch.Tensor] = keys(
        images, order=torch.arange(len(images)), context=ALONE
    )
    return found


def test_the_copy_follows_by_the_momentum_and_nothing_has_a_gradient() -> None:
    online, keys = encoder(1.0), MomentumKeys(encoder(1.0), torch.eye(2), momentum=0.9)
    with torch.no_grad():
        online.weight.mul_(2.0)
    wanted = keys.encoder.weight.clone()
    for _ in range(3):
        keys.follow(online)
        wanted = 0.9 * wanted + 0.1 * online.weight.detach()
    torch.testing.assert_close(keys.encoder.weight, wanted)
    assert not any(p.requires_grad for p in keys.parameters())
    found, queue = given(keys, rows(4).requires_grad_())
    assert not found.requires_grad
    assert not queue.requires_grad


def test_the_copy_is_one_and_keeps_its_own_statistics() -> None:
    online = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).train()
    keys = MomentumKeys(online, torch.eye(2), momentum=0.5)
    online(rows(8))
    keys.follow(online)
    assert torch.equal(keys.encoder[1].running_mean, torch.zeros(2)), "statistics do not follow"
    given(keys, rows(8, seed=1))
    assert keys.encoder[1].running_mean.any()
    assert keys.encoder[1].num_batches_tracked == online[1].num_batches_tracked == 1


def test_keys_meet_the_queue_before_them_and_then_replace_the_oldest() -> None:
    keys = MomentumKeys(encoder(), torch.randn(5, 2, generator=seeded()), momentum=0.9)
    expected = list(keys.queue.clone())
    torch.testing.assert_close(keys.queue.norm(dim=1), torch.ones(5))
    place = 0
    for step, count in enumerate((2, 2, 2, 1, 5, 3)):  # a ring that no batch divides
        images = rows(count, seed=step)
        found, before = given(keys, images)
        wanted = normalize(keys.encoder(images).detach(), dim=1)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(before, torch.stack(expected))
        for row in wanted:
            expected[place % 5] = row
            place += 1
        torch.testing.assert_close(keys.queue, torch.stack(expected))


def test_a_batch_longer_than_the_queue_leaves_its_end() -> None:
    keys = MomentumKeys(encoder(), torch.eye(2), momentum=0.9)
    found, _ = given(keys, rows(5))
    assert {tuple(row) for row in keys.queue.tolist()} == {tuple(r) for r in found[-2:].tolist()}


def test_workers_encode_each_others_images_and_get_their_own_keys_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything, order = rows(8), torch.randperm(8, generator=seeded(1))
    seen: list[torch.Tensor] = []

    class Watched(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images

    def gathered(tensor: torch.Tensor, context: Context) -> torch.Tensor:
        return everything if not seen else normalize(everything[order], dim=1)

    monkeypatch.setattr(momentum_keys, "gathered", gathered)
    keys = MomentumKeys(Watched(), rows(3), momentum=0.9)
    found, _ = keys(everything[4:], order=order, context=Context(rank=1, world_size=2))
    assert torch.equal(seen[0], everything[order[4:]])
    torch.testing.assert_close(found, normalize(everything[4:], dim=1))


# --- in the stage -------------------------------------------------------------------------------

MOCO = assign(
    load_experiment("experiments/digits.yaml"),
    {
        "data.image_size": 8,
        "pretrain.method": {"moco": {"queue_size": 64, "momentum": 0.9}},
        "pretrain.augmentation": {"crop_flip": {"padding": 1, "flip": False}},
        "pretrain.training": {
            "epochs": 10,
            "batch_size": 64,
            "lr": 0.05,
            "precision": "float32",
            "layout": "contiguous",
        },
    },
)


@pytest.fixture(scope="module")
def views() -> Views:
    return build_views(MOCO.data)


def pretrained(views: Views, context: Context = ALONE) -> dict[str, torch.Tensor]:
    step = plan(MOCO)[0]
    result: dict[str, Any] = run_step(step, {"known_train": views.known_train}, context)
    state: dict[str, torch.Tensor] = result["backbone"].state
    return state


def test_moco_reads_no_label_and_learns(views: Views) -> None:
    losses: list[float] = []
    heard = Context(report=lambda metrics, _: losses.append(metrics["pretrain/loss"]))
    first = pretrained(views, heard)
    blind = views.known_train._replace(labels=np.zeros_like(views.known_train.labels))
    second = pretrained(views._replace(known_train=blind))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not any(name.startswith(("encoder", "keys")) for name in first), "the trunk alone stays"
    # after the first epoch the queue holds keys, not noise
    assert losses[-1] < 0.8 * losses[1]


def test_an_interrupted_moco_goes_on_with_its_queue(views: Views, tmp_path: Path) -> None:
    def stop(metrics: Any, epoch: int) -> None:
        if epoch == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        pretrained(views, Context(folder=tmp_path, checkpoint_seconds=0.0, report=stop))
    resumed = pretrained(views, Context(folder=tmp_path, checkpoint_seconds=0.0))
    whole = pretrained(views)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
