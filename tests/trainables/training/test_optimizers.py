import copy
import subprocess
import sys
from typing import Any

import pytest
import torch

from trainables.training.optimizers import LeanSGD


def layers() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.random.set_rng_state(torch.Generator().manual_seed(3).get_state())
        return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))


def steps(model: torch.nn.Module, optimizer: Any, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad(set_to_none=True)
        model(inputs).pow(2).mean().backward()
        optimizer.step()


def groups(model: Any) -> list[dict[str, Any]]:
    return [
        {"params": list(model[0].parameters()), "lr": 0.1},
        {"params": list(model[2].parameters()), "lr": 0.02},
    ]


SETTINGS = [
    {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
    {"momentum": 0.9, "nesterov": False, "weight_decay": 5e-4},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_equal_to_torch_bit_by_bit(settings: dict[str, Any]) -> None:
    ours, theirs = layers(), layers()
    steps(ours, LeanSGD(groups(ours), **settings), 12)
    steps(theirs, torch.optim.SGD(groups(theirs), **settings), 12)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_stored_state_goes_on_where_it_was() -> None:
    settings = SETTINGS[2]
    whole, halves = layers(), layers()
    steps(whole, LeanSGD(groups(whole), **settings), 10)
    first = LeanSGD(groups(halves), **settings)
    steps(halves, first, 5)
    state = copy.deepcopy(first.state_dict())
    second = LeanSGD(groups(halves), **settings)
    second.load_state_dict(state)
    steps(halves, second, 5, start=5)
    for mine, other in zip(halves.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_parameter_without_gradient_stays() -> None:
    model = layers()
    before = [p.detach().clone() for p in model[2].parameters()]  # type: ignore[index]
    model[2].requires_grad_(False)  # type: ignore[index]
    optimizer = LeanSGD(groups(model), momentum=0.9, weight_decay=0.1)
    model[0](torch.ones(2, 5)).sum().backward()  # type: ignore[index]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model[2].parameters(), strict=True))  # type: ignore[index]


def test_a_step_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from trainables.training.optimizers import LeanSGD;"
        "w = torch.nn.Parameter(torch.ones(2));"
        "o = LeanSGD([{'params': [w], 'lr': 0.1}], momentum=0.9);"
        "w.sum().backward(); o.step(); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
