"""Every search space: baseline, replay, conditions, names. A new file is tested by being there."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

import search_spaces
from search_spaces.grid import points
from search_spaces.long_tail import (
    EXPERT_CORRECTIONS,
    EXPERT_LOSSES,
    LINEAR_CORRECTIONS,
    MARGIN_LOSSES,
)
from search_spaces.parameters import check_vary
from search_spaces.pick import FromTrial, Pick, Replay, Start
from trainables.data.service_settings import SERVICE_CHANGES
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.methods.losses import Loss
from trainables.methods.mixers import Mixer
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.samplers import Sampler
from trainables.methods.updaters import Updater
from trainables.pipeline import plan
from trainables.settings import assign, flatten

LONG_TAIL = (
    "classify.loss",
    "classify.sampler",
    "classify.mixing",
    "rebalance.method",
    "extract.batchnorm",
)
BASES = {
    "defaults": Experiment(),
    "own settings": assign(
        Experiment(),
        {
            "classify.loss.ldam.max_margin": 0.3,
            "score.method.energy.temperature": 2.0,
            "rebalance.method": "lws_plus",
            "rebalance.method.lws_plus.loss.label_aware_smoothing.head": 0.25,
            "update.mode": "full",
            "update.distiller": "kd",
            "update.exemplars_per_class": 7,
        },
    ),
    "closed form": assign(
        Experiment(), {"rebalance.method.ridge.seed": 3, "update.method.ridge.width": 700}
    ),
}


def trials(space: str, base: Experiment, count: int = 50) -> list[tuple[Any, dict[str, Any], Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    vary, choices, found = search_spaces.load(space), {}, []
    for _ in range(count):
        trial = study.ask()
        pick = Pick(FromTrial(trial, choices))
        found.append((vary(pick, base), pick.changes, trial))
        study.tell(trial, 0.0)
    return found


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("space", search_spaces.names())
class TestSpace:
    def test_baseline_is_the_base(self, space: str, base: Experiment) -> None:
        assert search_spaces.load(space)(Pick(Start()), base) == base

    def test_flat_parameters_rebuild_every_trial(self, space: str, base: Experiment) -> None:
        vary = search_spaces.load(space)
        for experiment, params, trial in trials(space, base):
            stored = json.loads(json.dumps(params, sort_keys=True))
            assert vary(Pick(Replay(stored)), base) == experiment
            assert vary(Pick(Replay(trial.params)), base) == experiment
            assert assign(base, stored) == experiment

    def test_ranges_exist_only_with_their_method(self, space: str, base: Experiment) -> None:
        for experiment, params, _ in trials(space, base, count=20):
            known = flatten(experiment).keys()
            assert params.keys() <= known, "a parameter of a method that was not chosen"

    def test_trials_differ_and_can_be_planned(self, space: str, base: Experiment) -> None:
        listed = search_spaces.grid(space, base)  # a grid's points are tried, not drawn
        vary = search_spaces.load(space)
        found = [vary(Pick(Replay(params)), base) for params in listed]
        found = found or [experiment for experiment, _, _ in trials(space, base, count=20)]
        # two draws may agree where no number is searched
        least = len(listed) or 16
        assert len({experiment.digest() for experiment in found}) >= least
        for experiment in found:
            plan(experiment)

    def test_parameters_are_plain_values(self, space: str, base: Experiment) -> None:
        for _, params, _ in trials(space, base, count=5):
            assert all(
                value is None or type(value) in (str, int, float, bool) for value in params.values()
            )


def test_long_tail_offers_everything_that_suits_the_base() -> None:
    base = BASES["defaults"]
    found = trials("long_tail", base, count=250)
    drawn = {key: {params.get(key) for _, params, _ in found} for key in LONG_TAIL}
    losses = {n for n, c in Loss.shelf.items() if c().trains_head()}
    losses -= {*MARGIN_LOSSES, *EXPERT_LOSSES}
    assert drawn["classify.loss"] == losses
    assert drawn["classify.sampler"] == set(Sampler.shelf)
    assert drawn["classify.mixing"] >= set(Mixer.shelf)
    corrections = {name for name, method in Rebalancer.shelf.items() if not method.oracle}
    assert drawn["rebalance.method"] == corrections - {*EXPERT_CORRECTIONS}
    assert drawn["extract.batchnorm"] == {"frozen", "shifted", None}
    nested = "rebalance.method.lws_plus.loss"
    assert {params.get(nested) for _, params, _ in found} >= {"label_aware_smoothing", None}


def test_frozen_varies_what_follows_the_features_alone() -> None:
    base = BASES["defaults"]
    found = trials("frozen", base, count=120)
    drawn = {params["rebalance.method"] for _, params, _ in found}
    families = {name for name, method in Rebalancer.shelf.items() if method.from_features}
    assert drawn == families | {"none"}  # the base's
    assert {"ridge", "lda", "fecam", "ncm", "knn", "crt"} <= families
    assert {name.split(".")[0] for _, params, _ in found for name in params} == {
        "rebalance",
        "score",
    }
    for name in ("score.method", "score.calibrator", "score.threshold"):
        assert len({params[name] for _, params, _ in found}) > 1, name
    assert any("rebalance.method.lda.prior" in params for _, params, _ in found)


@pytest.mark.parametrize(
    ("backbone", "poolings"),
    [("resnet18", {"default", "max", "gem"}), ("test_vit", {"default", "average", "max"})],
)
def test_frozen_varies_layer_and_pooling_of_a_pretrained_trunk(
    backbone: str, poolings: set[str]
) -> None:
    base = assign(PHOTOS, {"pretrain.backbone": backbone})
    found = trials("frozen", base, count=40)
    assert {params["pretrain.pooling"] for _, params, _ in found} == poolings
    assert {params["pretrain.layer"] for _, params, _ in found} == {0, 1}
    for experiment, params, _ in found:
        assert experiment.pretrain.pooling == params["pretrain.pooling"]
        assert experiment.pretrain.layer == params["pretrain.layer"]
        assert assign(base, params) == experiment
    start = Start()
    assert search_spaces.load("frozen")(Pick(start), base) == base
    assert start.params["pretrain.pooling"] == "default"
    trained = assign(base, {"classify.trunk": "full"})
    for _, params, _ in trials("frozen", trained, count=3):
        assert not any(name.startswith("pretrain") for name in params)


def test_a_search_in_service_leaves_the_level_of_false_alarm_alone() -> None:
    service = assign(Experiment(), {**SERVICE_CHANGES, "score.threshold.false_alarm.level": 0.02})
    for experiment, params, _ in trials("frozen", service, count=30):
        assert not any(name.startswith("score.threshold") for name in params)
        assert experiment.score.threshold == service.score.threshold


def test_batch_norm_is_shifted_only_where_a_head_trains_after_it() -> None:
    for experiment, params, _ in trials("long_tail", BASES["defaults"], count=60):
        trains = hasattr(experiment.rebalance.method, "epochs")
        assert ("extract.batchnorm" in params) is trains
    vision = assign(BASES["defaults"], {"pretrain.backbone": "vit_tiny_patch16_224"})
    for _, params, _ in trials("long_tail", vision, count=20):
        assert "extract.batchnorm" not in params


def test_a_head_of_another_kind_narrows_the_choice() -> None:
    base = assign(BASES["defaults"], {"classify.head": "cosine"})
    found = trials("long_tail", base, count=120)
    drawn = {key: {params.get(key) for _, params, _ in found} for key in LONG_TAIL}
    assert drawn["classify.loss"] >= set(MARGIN_LOSSES)
    assert not drawn["rebalance.method"] & set(LINEAR_CORRECTIONS)


def test_mixing_goes_with_losses_on_logits_alone() -> None:
    base = assign(BASES["defaults"], {"classify.mixing": "mixup"})
    for experiment, params, trial in trials("long_tail", base, count=60):
        compares = "projections" in experiment.classify.loss.required_inputs()
        assert ("classify.mixing" in trial.params) is not compares
        if compares:
            assert experiment.classify.mixing.name == params["classify.mixing"] == "none"


def test_follow_ups_stay_where_they_go_with_what_was_chosen() -> None:
    follow_ups = [{"epochs": 2, "lr": 0.01, "mixing": "mixup"}, {"epochs": 1, "lr": 0.01}]
    base = assign(BASES["defaults"], {"classify.then": follow_ups})
    kept = set()
    for experiment, _, _ in trials("long_tail", base, count=60):
        chosen = experiment.classify
        alone = "projections" in chosen.loss.required_inputs() or chosen.branches.name != "none"
        assert chosen.then == (() if alone else base.classify.then)
        kept.add(bool(chosen.then))
    assert kept == {True, False}


def test_ablation_is_three_trunks_by_three_heads() -> None:
    base = Experiment()
    vary = search_spaces.load("ablation")
    listed = search_spaces.grid("ablation", base)
    recipes = [vary(Pick(Replay(params)), base) for params in listed]
    assert len({recipe.digest() for recipe in recipes}) == len(recipes) == 9
    ways = {("cross_entropy", "instance_balanced"), ("cost_sensitive", "instance_balanced")}
    ways.add(("cross_entropy", "class_balanced"))
    first = recipes[0]
    assert (first.classify, first.rebalance.method.name) == (base.classify, "crt"), "base first"
    trunks = {(r.classify.loss.name, r.classify.sampler.name) for r in recipes}
    heads = {(r.rebalance.method.loss.name, r.rebalance.method.draws) for r in recipes}
    assert trunks == heads == ways
    drawn = {json.dumps(params, sort_keys=True) for _, params, _ in trials("ablation", base, 100)}
    known = {json.dumps(vary_params(vary, params, base), sort_keys=True) for params in listed}
    assert drawn == known, "what is drawn and what is listed are the same points"


def vary_params(vary: Any, params: dict[str, Any], base: Experiment) -> dict[str, Any]:
    pick = Pick(Replay(params))
    vary(pick, base)
    return pick.changes


def test_families_are_fifteen_recipes_on_five_trunks() -> None:
    base = Experiment()
    vary = search_spaces.load("families")
    recipes = [vary(Pick(Replay(p)), base) for p in search_spaces.grid("families", base)]
    assert recipes[0] == base, "the base comes first"
    assert len({recipe.digest() for recipe in recipes}) == 15
    assert len({recipe.classify.digest() for recipe in recipes}) == 5
    corrected = {r.rebalance.method.name for r in recipes if r.classify == base.classify}
    assert corrected == {"none", "logit_adjustment", "crt", "lws", "lws_plus", "tau_norm"}
    assert [r.classify.head.name for r in recipes if r.rebalance.method.name == "tde"] == [
        "causal_norm"
    ]
    smoothed = [r for r in recipes if r.rebalance.method.name == "lws_plus"]
    assert {r.rebalance.method.loss.name for r in smoothed} == {"label_aware_smoothing"}


def test_ablation_keeps_the_settings_of_a_base_that_retrains() -> None:
    base = assign(BASES["defaults"], {"rebalance.method": {"crt": {"epochs": 3}}})
    vary = search_spaces.load("ablation")
    recipes = [vary(Pick(Replay(p)), base) for p in search_spaces.grid("ablation", base)]
    assert {recipe.rebalance.method.epochs for recipe in recipes} == {3}


def test_a_space_with_a_range_has_no_grid() -> None:
    assert search_spaces.grid("long_tail", BASES["defaults"]) == []
    with pytest.raises(ConfigError, match="a range of numbers cannot be enumerated"):
        list(points(lambda pick, base: pick.field(base, "classify.training.lr"), Experiment()))


def test_full_covers_the_three_and_shares_trunks() -> None:
    base = BASES["defaults"]
    found = trials("full", base)
    assert len({experiment.classify.digest() for experiment, _, _ in found}) <= 3
    asked = {name for _, params, _ in found for name in params}
    for part in ("open_world", "update"):
        assert {name for _, params, _ in trials(part, base) for name in params} <= asked
    assert "rebalance.method" in asked


def test_long_tail_offers_contrastive_losses_beside_one_that_trains_the_head() -> None:
    contrasts, branches = set(), set()
    for experiment, params, _ in trials("long_tail", BASES["defaults"], count=400):
        loss = experiment.classify.loss
        assert loss.trains_head()
        branches.add((experiment.classify.branches.name, loss.name == "joint"))
        if loss.name == "joint":
            contrasts.add(params["classify.loss.joint.contrast"])
            assert experiment.classify.mixing.name == "none"
    assert contrasts == {"supcon", "psc", "bcl", "proco"}
    assert branches == {("none", False), ("none", True), ("bbn", False), ("hybrid", True)}


def test_trunk_share_is_searched_only_where_the_trunk_trains() -> None:
    asked = [params for _, params, _ in trials("update", BASES["defaults"], count=3)]
    assert not any("update.trunk_lr_factor" in params for params in asked)
    asked = [params for _, params, _ in trials("update", BASES["own settings"], count=3)]
    assert all("update.trunk_lr_factor" in params for params in asked)


def test_an_update_in_closed_form_is_searched_among_closed_forms() -> None:
    found = trials("update", BASES["closed form"], count=40)
    assert {experiment.update.method.name for experiment, _, _ in found} == {
        name for name, updater in Updater.shelf.items() if not updater.trains
    }
    assert {experiment.update.exemplars_per_class for experiment, _, _ in found} == {None}
    asked = {name for _, params, _ in found for name in params}
    assert "update.method.ridge.balance" in asked
    assert not asked & {"update.distiller", "update.training.lr"}


PHOTOS = assign(Experiment(), {"pretrain.backbone": "resnet18", "pretrain.method": "pretrained"})


@pytest.mark.parametrize("space", ["long_tail", "families", "photos", "full"])
def test_a_frozen_trunk_is_asked_for_nothing_that_needs_images(space: str) -> None:
    for experiment, _, _ in trials(space, PHOTOS, count=12):
        if not experiment.trunk_tuner().moves:
            experiment.classify.check_frozen()
            assert "projections" not in experiment.classify.loss.required_inputs()
            assert experiment.classify.mixing.name == experiment.classify.branches.name == "none"


def test_photos_search_the_rates_of_what_is_trained() -> None:
    drawn: dict[str, set[str]] = {}
    for experiment, params, _ in trials("photos", PHOTOS, count=40):
        tuner = experiment.classify.trunk.name
        drawn.setdefault(tuner, set()).update(n for n in params if n.startswith("classify."))
    assert drawn.keys() == {"auto", "last_blocks", "full"}, "auto is frozen"
    shared = {"classify.trunk", "classify.training.lr", "classify.dropout"}
    assert {name for name in drawn["auto"] if "loss" not in name} == shared | {"classify.sampler"}
    for name in ("last_blocks", "full"):
        start = f"classify.trunk.{name}"
        assert {f"{start}.block_decay", f"{start}.drop_path"} < drawn[name]
        assert {"classify.trunk_lr_factor", "classify.augmentation"} < drawn[name]
        assert "classify.augmentation.rand_augment.magnitude" in drawn[name]


def test_a_base_that_mixes_images_keeps_its_trunk_trained() -> None:
    base = assign(PHOTOS, {"classify.trunk": "full", "classify.mixing": "cutmix"})
    found = {experiment.classify.trunk.name for experiment, _, _ in trials("photos", base, 20)}
    assert found == {"full", "last_blocks"}


def test_names_are_the_files() -> None:
    files = {path.stem for path in Path(search_spaces.__path__[0]).glob("*.py")}
    assert set(search_spaces.names()) == files - {"__init__", "grid", "parameters", "pick"}
    assert {"full", "long_tail", "open_world", "update"} <= files


@pytest.mark.parametrize("space", search_spaces.names())
def test_a_space_says_what_varies_and_why(space: str) -> None:
    assert len(search_spaces.describe(space).split()) > 20


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("long_tial", "did you mean 'long_tail'"),
        ("pick", "unknown search space 'pick'"),
        ("no.such.module:vary", "there is no module 'no', neither installed nor in /"),
        (":vary", "'' is no module"),
        ("../own:vary", r"'\.\./own' is no module"),
        (".:vary", r"'\.' is no module"),
        ("a..b:vary", r"'a\.\.b' is no module"),
        ("search_spaces.full:varry", "has no function 'varry'; did you mean 'vary'"),
        ("search_spaces.full:", "has no function ''"),
        ("search_spaces.full:OBJECTIVES", "has no function 'OBJECTIVES'"),
    ],
)
def test_an_unknown_space_is_one_line(space: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        search_spaces.load(space)
    assert "\n" not in str(error.value)


@pytest.fixture
def own_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the path of a module in the working folder, which is on no path of Python."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "own_space.py"
    sys.modules.pop("own_space", None)


def test_a_space_in_the_working_folder_is_found_without_pythonpath(own_space: Path) -> None:
    own_space.write_text(
        "OBJECTIVES = ('evaluate/accuracy:max',)\ndef vary(pick, base): return base\n"
    )
    base = Experiment()
    assert search_spaces.load("own_space:vary")(None, base) is base
    assert search_spaces.objectives("own_space:vary") == ("evaluate/accuracy:max",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_library", "fails when it is imported: No module named 'no_such_library'"),
        ("def vary(", "fails when it is imported: SyntaxError"),
        ("1 / 0", "fails when it is imported: ZeroDivisionError: division by zero"),
        ("vary = 3", "own_space has no function 'vary'"),
    ],
)
def test_a_space_that_cannot_be_imported_is_one_line(
    own_space: Path, text: str, message: str
) -> None:
    own_space.write_text(f"{text}\n")
    with pytest.raises(ConfigError, match=message) as error:
        search_spaces.load("own_space:vary")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (lambda pick, base: base.nothing, "fails on the base recipe: AttributeError"),
        (lambda pick, base: None, "must return an Experiment; received None"),
        (lambda pick, base: assign(base, {"a": 1}), "'own:vary': experiment: unknown key 'a'"),
    ],
)
def test_a_space_that_fails_on_the_base_recipe_is_one_line(vary, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_vary(vary, Experiment(), "own:vary")


def test_spaces_do_not_import_optuna_or_ray() -> None:
    code = (
        "import sys, search_spaces\n"
        "for name in search_spaces.names(): search_spaces.load(name)\n"
        "print({'optuna', 'ray', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "set()"
