"""The head of nearest neighbors computes its formula, image by image."""

import math

import torch

from trainables.methods.heads.nearest_neighbors import NearestNeighbors


def test_logits_are_votes_of_the_k_nearest_stored_images() -> None:
    draws = torch.Generator().manual_seed(0)
    head = NearestNeighbors(k=3, temperature=0.5, size=4).build(6, 2)
    with torch.no_grad():
        head.weight.zero_()  # no vector of a class is stored
        head.bank.copy_(torch.nn.functional.normalize(torch.randn(4, 6, generator=draws)))
        head.bank_labels.copy_(torch.tensor([0, 0, 1, 1]))
        head.scale.fill_(2.0)
        features = torch.randn(5, 6, generator=draws)
        found = head(features)
    for row, x in enumerate(features):
        cosines = [float(x @ stored / x.norm()) for stored in head.bank]
        nearest = sorted(range(4), key=lambda i: -cosines[i])[:3]
        for label in range(2):
            votes = sum(
                math.exp((cosines[i] - 1) / 0.5) for i in nearest if head.bank_labels[i] == label
            )
            expected = 2.0 * math.log(math.exp(-2 / 0.5) + votes)
            assert math.isclose(float(found[row, label]), expected, abs_tol=1e-4)
