"""Where a mix acts: images, hidden layers, features."""

from __future__ import annotations

import pytest
import torch

from trainables.context import Context
from trainables.data.views import build_views
from trainables.errors import ConfigError
from trainables.experiment import load_experiment
from trainables.models.backbone import Trunk, build_trunk, to_artifact
from trainables.stages import classify
from trainables.training.mixed_batch import mixed_features
from trainables.transforms.mixing import Mix, mixed_values, paired

IMAGES = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator())
MIX = paired(torch.arange(4), 0.7, torch.tensor([1, 2, 3, 0]))


@pytest.fixture(scope="module", params=["fastnet", "resnet32", "resnet10t"])
def trunk(request: pytest.FixtureRequest) -> Trunk:
    # evaluation mode: normalisation by the batch would hide what is mixed with what
    return build_trunk(request.param, 16).eval()


def test_hidden_layers_are_the_named_maps(trunk: Trunk) -> None:
    seen: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, maps: seen.append(maps))
        for layer in trunk.hidden_layers()
    ]
    with torch.no_grad():
        named = list(trunk.forward_maps(IMAGES).values())
    for hook in hooks:
        hook.remove()
    assert len(seen) > 1
    assert all(torch.equal(a, b) for a, b in zip(seen, named, strict=True))


@torch.no_grad()
def test_a_mix_acts_where_it_says(trunk: Trunk) -> None:
    plain = mixed_features(trunk, IMAGES, None)
    torch.testing.assert_close(
        mixed_features(trunk, IMAGES, MIX._replace(place="features")), mixed_values(plain, MIX)
    )
    images = mixed_features(trunk, IMAGES, MIX)
    torch.testing.assert_close(images, trunk(mixed_values(IMAGES, MIX)))
    places = [0.0, 0.5, 0.999]
    depths = [mixed_features(trunk, IMAGES, hidden(depth)) for depth in places]
    torch.testing.assert_close(depths[0], images)
    assert not torch.allclose(depths[1], depths[0])
    assert not torch.allclose(depths[2], depths[1])
    assert torch.equal(trunk(IMAGES), plain), "a hook was left behind"


def hidden(depth: float) -> Mix:
    return MIX._replace(place="hidden", depth=depth)


@torch.no_grad()
def test_mixing_a_layer_is_mixing_its_maps() -> None:
    trunk = build_trunk("fastnet", 16).eval()
    found = mixed_features(trunk, IMAGES, hidden(0.5))  # of images, group 1 and group 2
    maps = mixed_values(trunk.forward_maps(IMAGES)["group1"], MIX)
    for group in trunk.hidden_layers()[1:]:
        maps = group(maps)
    torch.testing.assert_close(found, maps.amax((2, 3)))


def test_a_network_without_named_layers_is_refused() -> None:
    trunk = Trunk(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.Flatten()), 2)
    with pytest.raises(ConfigError, match="does not name its hidden layers"):
        mixed_features(trunk, IMAGES, hidden(0.5))


def test_a_mixed_training_differs_from_a_plain_one_and_repeats_itself() -> None:
    sets = ["classify.training.epochs=2", "classify.training.precision=float32"]
    views = build_views(load_experiment("experiments/digits.yaml").data)
    backbone = to_artifact(build_trunk("fastnet", 8), "fastnet", 8)
    found = {}
    for name, value in {
        "none": "none",
        "mixup": "mixup",
        "again": "mixup",
        "layers": "{manifold_mixup: {variant: paper}}",
    }.items():
        recipe = load_experiment("experiments/digits.yaml", [*sets, f"classify.mixing={value}"])
        losses: list[float] = []
        classified = classify.run(
            recipe.classify,
            backbone=backbone,
            known_train=views.known_train,
            validation_known=views.validation_known,
            context=Context(report=lambda m, _, kept=losses: kept.append(m["classify/loss"])),
        )
        found[name] = (losses, classified.classifier.state["weight"])
    assert torch.equal(found["mixup"][1], found["again"][1])
    assert not torch.equal(found["mixup"][1], found["none"][1])
    assert not torch.equal(found["mixup"][1], found["layers"][1])
    # two labels at once cannot be learned as well as one
    assert found["mixup"][0][1] > found["none"][0][1]
