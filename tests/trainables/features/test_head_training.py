"""One head trained on cached features is the head that torch's optimizer trains."""

import math

import torch
from torch import nn

from trainables.features.head_training import shuffled_draws, train_head


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_trained_head_is_that_of_torchs_sgd_with_two_rates_and_half_a_cosine() -> None:
    features = torch.randn(60, 5, generator=seeded())
    labels = torch.randint(3, (60,), generator=seeded(1))
    draws = shuffled_draws(60, epochs=8, generator=seeded(2))
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    settings = {"batch_size": 16, "lr": 0.2, "weight_decay": 5e-3}
    train_head(
        ours, features=features, labels=labels, draws=draws, slow=[ours.bias], slow_factor=0.1,
        **settings,
    )  # fmt: skip
    optimizer = torch.optim.SGD(
        [{"params": [theirs.weight], "lr": 0.2}, {"params": [theirs.bias], "lr": 0.02}],
        momentum=0.9,
        weight_decay=5e-3,
    )
    batches = draws.split(16)
    for step, batch in enumerate(batches):
        for group, peak in zip(optimizer.param_groups, (0.2, 0.02), strict=True):
            group["lr"] = peak * (1 + math.cos(math.pi * step / len(batches))) / 2
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(features[batch]), labels[batch]).backward()
        optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
        assert mine.grad is None
