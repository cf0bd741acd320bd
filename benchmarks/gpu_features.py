"""What a GPU computes on cached features: many heads at once, neighbors, clusters.

Goals, set for an H200 and never measured on one: 256 heads (50,000 x 512, 100 classes, 10 epochs)
in 3 s, and 100 times less each than by a lean loop, one by one (P3 on a GPU); nearest neighbors of
10,000 on 50,000 x 512, and k-means of the latter, in 50 ms.

    python -m benchmarks.gpu_features [--repeats 3] [--device cuda] [--small]

Before the clock starts, heads that trained together are compared with heads that trained alone.
Without a GPU there is one line; ``--device cpu --small`` runs the same code on little.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from benchmarks import print_row
from benchmarks.gpu import Options, Size, read_options, timed
from benchmarks.heads import largest_difference, make_data, measure
from trainables.features.kmeans import constrained_kmeans
from trainables.methods.scores.knn import KNN


def heads(options: Options) -> list[bool]:
    """Many heads at once beside one by one, and the limit."""
    case, device = options.size.heads, options.device
    data = make_data(case, options.size.head_samples, device)
    correct = largest_difference(case, data) < (1e-4 if device.type == "cuda" else 1e-5)
    per_head = measure(case, data, options.repeats)
    times = {name: [wall for _, wall in pairs] for name, pairs in per_head.items()}
    name = f"gpu/{case.heads} heads"
    limit = {"ours": [case.heads * t for t in times["ours"]], "limit": [3.0]}
    return [
        print_row(name, "lean loop", times, correct=correct),
        print_row(name, "limit", limit, correct=correct),
    ]


def search(size: Size, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return what is computed on features: neighbors and clusters."""
    draws = torch.Generator().manual_seed(0)
    bank = torch.randn(size.bank, size.width, generator=draws).to(device)
    queries = torch.randn(size.queries, size.width, generator=draws).to(device)
    unknown = torch.full((size.bank,), -1, device=device)
    uniforms = torch.rand(1, size.clusters, generator=draws, dtype=torch.float64).to(device)
    score = KNN()
    state = score.fit(features=bank)
    return {
        "knn": lambda: score(features=queries, state=state),
        "kmeans": lambda: constrained_kmeans(
            bank, unknown, num_clusters=size.clusters, uniforms=uniforms, iterations=20
        ),
    }


def searches(options: Options) -> list[bool]:
    """Neighbors and clusters beside the limit."""
    found = []
    for name, compute in search(options.size, options.device).items():
        compute()
        times = [timed(compute, options.device) for _ in range(options.repeats)]
        sides = {"ours": times, "limit": [0.05]}
        found.append(print_row(f"gpu/{name}", "limit", sides))
    return found


def main() -> int:
    """Measure, print rows, and return the exit status."""
    options = read_options("gpu_features", __doc__)
    if options is None:
        return 0
    passed = all([*heads(options), *searches(options)])
    return 0 if passed or options.small else 1


if __name__ == "__main__":
    sys.exit(main())
