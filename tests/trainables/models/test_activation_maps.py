"""Activation maps: their mean is the logit, and a look changes nothing."""

from __future__ import annotations

import pytest
import torch

from trainables.errors import ConfigError
from trainables.methods.heads.cosine import Cosine
from trainables.models.activation_maps import class_activation
from trainables.models.backbone import Trunk, build_trunk

DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=DRAW)
LABELS = torch.tensor([0, 2, 1, 2])


def test_the_mean_of_a_map_is_the_logit_of_its_class() -> None:
    trunk, head = build_trunk("resnet32", 16), torch.nn.Linear(64, 3)
    maps = class_activation(trunk, head, IMAGES, LABELS)
    assert maps.shape == (4, 16, 16)
    with torch.no_grad():
        logits = head(trunk.eval()(IMAGES)).gather(1, LABELS[:, None])[:, 0]
    # a bilinear enlargement by a whole factor keeps the mean
    torch.testing.assert_close(maps.mean((1, 2)) + head.bias[LABELS], logits, rtol=1e-4, atol=1e-4)


def test_a_look_leaves_the_trunk_as_it_was() -> None:
    trunk = build_trunk("fastnet", 16).train()
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    maps = class_activation(trunk, torch.nn.Linear(trunk.num_features, 3), IMAGES, LABELS)
    assert not maps.requires_grad
    assert trunk.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items())


def test_models_without_activation_maps_are_refused() -> None:
    trunk = build_trunk("fastnet", 16)
    cosine = Cosine().build(trunk.num_features, 3)
    with pytest.raises(ConfigError, match=r"needs the head 'linear'.*CosineHead"):
        class_activation(trunk, cosine, IMAGES, LABELS)

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3 * 16 * 16, 5)

        def maps(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"last": self.layer(images.flatten(1))}

    with pytest.raises(ConfigError, match=r"whose last 5 maps are pooled .*\[4, 5\]"):
        class_activation(Trunk(Flat(), 5), torch.nn.Linear(5, 3), IMAGES, LABELS)
