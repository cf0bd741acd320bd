import types
from typing import NamedTuple

import pytest

from trainables import pipeline
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.pipeline import Step, describe, plan, step_key, uses_oracle
from trainables.settings import Settings, assign

BASE = Experiment()


def keys(experiment: Experiment, seed: int = 0) -> dict[str, str]:
    """Keys of all steps when each result's digest is its own key."""
    digests = dict.fromkeys((*pipeline.OPEN_VIEWS, *pipeline.EVALUATE_ONLY), "view")
    found = {}
    for step in plan(experiment):
        found[step.stage] = step_key(step, digests, seed)
        digests.update({name: f"{found[step.stage]}/{name}" for name in step.outputs})
    return found


def test_every_stage_is_wired_by_name() -> None:
    steps = {step.stage: step for step in plan(BASE)}
    assert list(steps) == list(pipeline.STAGES)
    assert "backbone" in steps["classify"].inputs
    assert "features" in steps["rebalance"].outputs or "features" in steps["extract"].outputs
    assert set(pipeline.EVALUATE_ONLY) <= set(steps["evaluate"].inputs)
    assert len(describe(steps.values())) == len(steps)


def test_missing_artifact_is_refused_with_the_stage_that_gives_it() -> None:
    with pytest.raises(
        ConfigError, match="stage 'classify' needs 'backbone'; add the stage 'pretrain'"
    ):
        plan(BASE, ["classify"])


class Nothing(NamedTuple):
    nothing: str


def toy_stage(run: object) -> types.ModuleType:
    module = types.ModuleType("toy")
    module.run = run  # type: ignore[attr-defined]
    module.PROVIDES = {}  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("view", ["held_out_known", "held_out_novel", "pool_labels", "test_all"])
def test_no_stage_but_evaluate_may_ask_for_held_out_views(
    view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, object] = {}
    source = f"def run(settings, *, {view}, context) -> Nothing: return Nothing('x')"
    exec(source, {"Nothing": Nothing}, names)  # one signature per guarded name
    monkeypatch.setitem(pipeline.STAGES, "rebalance", toy_stage(names["run"]))
    with pytest.raises(ConfigError, match=f"stage 'rebalance' requires '{view}'"):
        plan(BASE)


def test_pool_labels_reach_discover_for_an_oracle_only() -> None:
    def inputs(experiment: Experiment) -> tuple[str, ...]:
        return next(s.inputs for s in plan(experiment) if s.stage == "discover")

    oracle = assign(BASE, {"discover.pseudo_labeler": "oracle"})
    assert "pool_labels" not in inputs(BASE)
    assert "pool_labels" in inputs(oracle)
    assert uses_oracle(oracle)
    assert not uses_oracle(BASE)


def test_a_method_that_needs_an_absent_tensor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = pipeline.STAGES["classify"]
    monkeypatch.setattr(stage, "PROVIDES", {"loss": frozenset({"labels"})})
    with pytest.raises(ConfigError, match=r"classify.loss: 'cross_entropy' needs logits"):
        plan(BASE)


def test_a_change_downstream_keeps_the_keys_upstream() -> None:
    base = keys(BASE)
    changed = keys(assign(BASE, {"score.method": "margin"}))
    same = {stage for stage in base if base[stage] == changed[stage]}
    assert same == {"pretrain", "classify", "extract", "rebalance"}


def test_a_change_upstream_changes_every_key_that_depends_on_it() -> None:
    base = keys(BASE)
    changed = keys(assign(BASE, {"classify.loss": "focal"}))
    assert {stage for stage in base if base[stage] == changed[stage]} == {"pretrain"}


def test_seed_and_input_content_are_in_the_key() -> None:
    step = Step("rebalance", BASE.rebalance, ("features",), {})
    first = step_key(step, {"features": "a"}, 0)
    assert first == step_key(step, {"features": "a", "unused": "b"}, 0)
    assert first != step_key(step, {"features": "b"}, 0)
    assert first != step_key(step, {"features": "a"}, 1)


def test_name_of_the_experiment_is_in_no_key() -> None:
    assert keys(BASE) == keys(assign(BASE, {"name": "other"}))


class Other(Settings):
    value: int = 1


def test_settings_without_methods_use_no_oracle() -> None:
    assert not uses_oracle(Other())
