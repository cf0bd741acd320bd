"""Which weights of a trunk a training changes: bit by bit, with its rates, and none when frozen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.execution.stored_precision import for_gpu_groups
from trainables import pipeline
from trainables.artifacts import Backbone
from trainables.context import Context
from trainables.data.views import Views
from trainables.errors import ConfigError
from trainables.experiment import Experiment, load_experiment
from trainables.methods.tuners import Tuner
from trainables.models.backbone import Trunk, build_trunk, extract_features, to_artifact
from trainables.models.head_rate import rate_factor
from trainables.models.precision import ComputeFormat, Race, compute_format
from trainables.models.trunks.blocks import blocks_of, train_only, training_mode
from trainables.pipeline import plan, run_step
from trainables.settings import assign
from trainables.training.classify_model import build_model

SMALL = {
    "data.image_size": 32,
    "classify.training.epochs": 2,
    "classify.training.batch_size": 64,
    "classify.training.lr": 0.05,
}
PIXELS = {"mean", "std"}  # what images are normalized by: constants
NETWORKS = ["fastnet", "resnet32", "fastnet+2xstage", "efficientnet_lite0", "resnet18", "test_vit"]


def backbone(name: str, origin: str = "timm:x") -> Backbone:
    draws = torch.Generator().manual_seed(1)
    trunk = build_trunk(name, 32, generator=draws)
    return to_artifact(trunk, name, 32)._replace(
        pretrained_on=origin, training_images=torch.empty(0, dtype=torch.int64)
    )


def classify(
    base: Experiment,
    views: Views,
    start: Backbone,
    folder: Path | None = None,
    **changes: Any,
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Run `classify` and return what it gave and reported."""
    named = {f"classify.{key.replace('__', '.')}": value for key, value in changes.items()}
    step = next(step for step in plan(assign(base, named)) if step.stage == "classify")
    given = {**views._asdict(), "backbone": start}
    reports: list[dict[str, float]] = []
    context = Context(folder=folder, report=lambda row, epoch: reports.append(dict(row)))
    return run_step(step, {name: given[name] for name in step.inputs}, context), reports


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("origin", ["timm:x", "not known", "7 labelled images of another recipe"])
@pytest.mark.parametrize("trunk", ["auto", "frozen"])
def test_a_pretrained_trunk_stays_bit_by_bit_and_learns_no_labels(
    base: Experiment, views: Views, origin: str, trunk: str
) -> None:
    before = backbone("fastnet", origin)
    result, reports = classify(base, views, before, trunk=trunk)
    assert moved(before.state, result["backbone"].state) == set()
    assert len(result["backbone"].training_images) == 0
    assert result["backbone"] == before
    head = sum(tensor.numel() for tensor in result["classifier"].state.values())
    weights = sum(p.numel() for p in build_trunk("fastnet", 32).parameters())
    assert reports[0]["classify/trainable_share"] == pytest.approx(head / (head + weights))


def test_other_trunks_are_trained_as_before(base: Experiment, views: Views) -> None:
    before = backbone("fastnet", "nothing")
    result, reports = classify(base, views, before)
    assert moved(before.state, result["backbone"].state) == set(before.state) - PIXELS
    assert reports[0]["classify/trainable_share"] == 1.0
    assert len(result["backbone"].training_images) > 0


def test_a_pretrained_trunk_can_be_trained_when_that_is_said(
    base: Experiment, views: Views
) -> None:
    before = backbone("fastnet")
    result, _ = classify(base, views, before, trunk="full")
    assert moved(before.state, result["backbone"].state) == set(before.state) - PIXELS


def test_the_head_on_a_frozen_trunk_is_gradient_descent_on_its_features(
    base: Experiment, views: Views
) -> None:
    """One full batch, one epoch: the weights are those of a step computed by hand."""
    trunk, count = backbone("fastnet"), len(views.known_train.labels)
    changes = {"epochs": 1, "batch_size": count, "momentum": 0.0, "weight_decay": 0.0}
    changes["schedule"] = "constant"
    found, reports = classify(
        base, views, trunk, **{f"training__{name}": value for name, value in changes.items()}
    )
    settings = assign(base, {"classify.training.epochs": 1}).classify
    model = build_model(settings, trunk, views.known_train, Context())
    features = extract_features(model.trunk, views.known_train)
    labels = torch.from_numpy(views.known_train.labels)
    logits = model.head(features)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    lr = 0.05 * rate_factor(model.head, features)
    for name, weight in model.head.named_parameters():
        expected = weight.detach() - lr * weight.grad
        torch.testing.assert_close(found["classifier"].state[name], expected, atol=1e-6, rtol=1e-5)
    right = (logits.argmax(1) == labels).numpy()
    per_class = [right[labels.numpy() == c].mean() for c in range(views.known_train.num_classes)]
    assert reports[0]["classify/train_accuracy"] == pytest.approx(np.mean(per_class))
    assert reports[0]["classify/lr"] == pytest.approx(lr)


def test_without_epochs_no_image_passes_a_frozen_trunk(
    base: Experiment, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = backbone("fastnet")
    model = build_model(base.classify, start, views.known_train, Context())
    monkeypatch.setattr(Trunk, "forward", None)
    result, reports = classify(base, views, start, training__epochs=0)
    assert moved(dict(model.head.state_dict()), result["classifier"].state) == set()
    assert reports == []
    assert result["classifier"].train_cost == {"classify_steps": 0.0, "classify_samples": 0.0}


def test_a_frozen_trunk_is_not_raced_and_its_head_trains_in_float32(
    base: Experiment, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "WORTH_PROBING", 1)
    changes = {"classify.training.precision": "auto", "classify.training.layout": "auto"}
    recipe = assign(base, changes)
    step = next(step for step in plan(recipe) if step.stage == "classify")
    raced: list[Race] = []

    def choose(race: Race, context: Context) -> ComputeFormat:
        raced.append(race)
        return compute_format("bfloat16", "contiguous")

    for origin, precision in (("timm:x", "float32"), ("nothing", "bfloat16")):
        given = {**views._asdict(), "backbone": backbone("fastnet", origin)}
        found = pipeline.with_precision(step, given, Context(), choose)
        assert found.settings.training.precision == precision  # type: ignore[attr-defined]
    assert len(raced) == 1
    pretrained = assign(recipe, {"pretrain.method": "pretrained", "pretrain.backbone": "resnet18"})
    kept = [for_gpu_groups(each).classify.training.precision for each in (recipe, pretrained)]
    assert kept == ["bfloat16", "auto"]


@pytest.mark.parametrize("trunk", ["frozen", "last_blocks", "lora"])
def test_rung_by_rung_equals_the_whole_training_bit_by_bit(
    base: Experiment, views: Views, tmp_path: Path, trunk: str
) -> None:
    start = backbone("test_vit")
    changes = {"trunk": trunk, "dropout": 0.3, "training__epochs": 3}
    whole, reported = classify(base, views, start, **changes)
    first, reports = classify(base, views, start, tmp_path, training__until=1, **changes)
    assert reports == reported[:1]
    assert moved(whole["classifier"].state, first["classifier"].state)
    found, reports = classify(base, views, start, tmp_path, **changes)
    assert reports == reported
    assert moved(whole["backbone"].state, found["backbone"].state) == set()
    assert moved(whole["classifier"].state, found["classifier"].state) == set()


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_all_parameters_once_in_the_order_of_the_network(name: str) -> None:
    trunk = build_trunk(name, 32)
    blocks = blocks_of(trunk)
    everything = [parameter for block in blocks for parameter in block]
    assert sorted(everything) == sorted(name for name, _ in trunk.named_parameters())
    assert len(blocks) >= 3
    assert all(blocks)


@pytest.mark.parametrize(
    ("name", "count"),
    [("fastnet", 4), ("resnet32", 16), ("resnet18", 9), ("efficientnet_lite0", 17)],
)
def test_a_block_is_a_residual_block(name: str, count: int) -> None:
    assert len(blocks_of(build_trunk(name, 32))) == count


@pytest.mark.parametrize("name", ["fastnet", "efficientnet_lite0"])
def test_last_blocks_leave_the_others_bit_by_bit(base: Experiment, views: Views, name: str) -> None:
    before = backbone(name)
    result, reports = classify(base, views, before, trunk={"last_blocks": {"blocks": 2}})
    trunk = build_trunk(name, 32)
    last = {weight for block in blocks_of(trunk)[-2:] for weight in block}
    layers = {weight.rpartition(".")[0] for weight in last}
    changed = moved(before.state, result["backbone"].state)
    assert last <= changed
    assert {weight.rpartition(".")[0] for weight in changed} == layers
    buffers = {key for key in before.state if "running" in key or "num_batches" in key}
    assert changed - last == {key for key in buffers if key.rpartition(".")[0] in layers}
    assert 0 < reports[0]["classify/trainable_share"] < 1


def test_a_frozen_batch_norm_normalizes_by_its_running_statistics() -> None:
    trunk = build_trunk("fastnet", 32)
    train_only(trunk, set(blocks_of(trunk)[-1]))
    training_mode(trunk)
    names = {name: part.training for name, part in trunk.named_modules() if "norm" in name}
    assert {name for name, training in names.items() if training} == {
        "network.groups.2.norm1",
        "network.groups.2.norm2",
    }


def rates_of(base: Experiment, views: Views, start: Backbone, **changes: Any) -> dict[str, float]:
    """Return the learning rate of each parameter at the peak, by name."""
    named = {f"classify.{key}": value for key, value in changes.items()}
    settings = assign(base, named).classify
    model = build_model(settings, start, views.known_train, Context())
    names = {
        id(p): f"{part}.{n}" for part, m in model.modules().items() for n, p in m.named_parameters()
    }
    return {
        names[id(parameter)]: settings.training.lr * group.lr_factor
        for group in model.groups()
        for parameter in group.parameters
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_rates_per_part_are_those_of_the_formula(base: Experiment, views: Views, name: str) -> None:
    rates = rates_of(
        base, views, backbone(name), trunk={"full": {"block_decay": 0.7}}, trunk_lr_factor=0.1
    )
    blocks = blocks_of(build_trunk(name, 32))
    for behind, block in enumerate(reversed(blocks)):
        for weight in block:
            assert rates.pop(f"trunk.{weight}") == pytest.approx(0.05 * 0.1 * 0.7**behind)
    assert set(rates.values()) == {0.05}
    assert all(name.startswith("head.") for name in rates)


def test_rates_of_last_blocks_count_from_the_last(base: Experiment, views: Views) -> None:
    tuner = {"last_blocks": {"blocks": 2, "block_decay": 0.5}}
    rates = rates_of(base, views, backbone("resnet18"), trunk=tuner, trunk_lr_factor=0.2)
    trunk = {name: rate for name, rate in rates.items() if name.startswith("trunk.")}
    assert sorted(set(trunk.values())) == pytest.approx([0.05 * 0.2 * 0.5, 0.05 * 0.2])
    assert {name.split(".")[2] for name in trunk} == {"layer4"}


def test_a_recipe_of_before_has_its_digest_and_one_group_of_parameters(
    base: Experiment, views: Views
) -> None:
    tree = base.model_dump(mode="json")
    assert not {"trunk", "trunk_lr_factor", "dropout"} & tree["classify"].keys()
    assert "trunk" not in tree["update"]
    assert not {"patience", "warmup_fraction"} & tree["classify"]["training"].keys()
    model = build_model(base.classify, backbone("fastnet", "nothing"), views.known_train, Context())
    (group,) = model.groups()
    assert [id(p) for p in group.parameters] == [
        id(p) for part in (model.trunk, model.head) for p in part.parameters()
    ]


PRETRAINED = ["pretrain.backbone=resnet18", "pretrain.method=pretrained"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([*PRETRAINED, "classify.mixing=cutmix"], "classify.mixing: 'cutmix' mixes images.*none"),
        ([*PRETRAINED, "classify.loss=paco"], "classify.loss: 'paco' compares two views"),
        (
            ["classify.trunk=frozen", "classify.branches=bbn"],
            "classify.branches: 'bbn' trains branches",
        ),
        (["classify.trunk=frozen", "classify.head=experts"], "classify.head: 'experts' trains"),
        (
            [
                "classify.trunk=frozen",
                'classify.then=[{"epochs": 1, "lr": 0.1, "mixing": "mixup"}]',
            ],
            "classify.mixing: 'mixup'",
        ),
        (["classify.trunk=freezed"], "unknown name 'freezed' in tuners.*did you mean 'frozen'"),
        (["classify.trunk.last_blocks.blocks=0"], "blocks: .*greater than or equal to 1"),
        (["update.mode=full", "update.trunk=frozen"], "update.trunk: 'frozen' trains no trunk"),
        (
            ["classify.training.warmup_epochs=1", "classify.training.warmup_fraction=0.1"],
            "warmup_fraction: must be 0 beside warmup_epochs",
        ),
        (
            ["classify.training.schedule=plateau", "classify.training.gamma=1.0"],
            "gamma: must be below 1 for the schedule 'plateau'",
        ),
    ],
)
def test_what_cannot_work_is_refused_when_the_recipe_is_read(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(None, sets)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sets", [[*PRETRAINED, "classify.trunk=full"], []])
def test_a_trunk_that_is_trained_mixes_images(sets: list[str]) -> None:
    assert load_experiment(None, [*sets, "classify.mixing=cutmix"]).trunk_tuner().name == "full"


def test_more_last_blocks_than_there_are_is_one_line(base: Experiment, views: Views) -> None:
    with pytest.raises(ConfigError, match=r"blocks: the trunk has 4 blocks.*received 9"):
        classify(base, views, backbone("fastnet"), trunk={"last_blocks": {"blocks": 9}})


@pytest.mark.parametrize("name", ["fastnet", "densenet121"])
def test_a_network_without_stochastic_depth_is_one_line(
    base: Experiment, views: Views, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"drop_path: '{name}' has no stochastic depth"):
        build_trunk(name, 32, drop_path=0.2)


def test_stochastic_depth_is_for_training_alone() -> None:
    draws = [torch.Generator().manual_seed(1) for _ in range(2)]
    plain, deep = (
        build_trunk("test_vit", 32, generator=draw, drop_path=rate)
        for draw, rate in zip(draws, (0.0, 0.9), strict=True)
    )
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    assert plain.state_dict().keys() == deep.state_dict().keys()
    assert torch.equal(plain.eval()(images), deep.eval()(images))
    assert not torch.equal(plain.train()(images), deep.train()(images))


# --- low rank --------------------------------------------------------------------------------


def vit() -> Trunk:
    return build_trunk("test_vit", 32, generator=torch.Generator().manual_seed(1)).eval()


def test_low_rank_merged_equals_unmerged() -> None:
    pytest.importorskip("peft")
    trunk, plain = vit(), vit()
    tuner = Tuner.parse({"lora": {"rank": 3, "alpha": 6.0}})
    tuner.prepare(trunk)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(trunk.eval()(images), plain(images)), "the change is zero at the start"
    rates = tuner.rates(trunk)
    assert all(".lora_" in name for name in rates)
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if name in rates:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    unmerged = trunk(images)
    tuner.finish(trunk)
    assert trunk.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(trunk(images), unmerged, atol=1e-5, rtol=1e-5)
    assert (unmerged - plain(images)).abs().max() > 0.01


def test_low_rank_changes_linear_layers_alone(base: Experiment, views: Views) -> None:
    pytest.importorskip("peft")
    before = backbone("test_vit")
    result, reports = classify(base, views, before, trunk={"lora": {"rank": 2}})
    linear = {
        f"{name}.weight"
        for name, part in vit().named_modules()
        if isinstance(part, torch.nn.Linear)
    }
    changed = moved(before.state, result["backbone"].state)
    assert changed == linear
    for name in linear:
        change = result["backbone"].state[name] - before.state[name]
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 2
    assert 0 < reports[0]["classify/trainable_share"] < 0.2


def test_low_rank_without_linear_layers_is_one_line() -> None:
    with pytest.raises(ConfigError, match="lora: FastNet has no linear layers"):
        Tuner.parse("lora").prepare(build_trunk("fastnet", 32))


def test_low_rank_without_its_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"needs the package peft.*pip install peft"):
        Tuner.parse("lora").prepare(vit())
