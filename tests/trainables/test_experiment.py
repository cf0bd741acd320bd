"""The whole schema."""

from pathlib import Path

import pytest

from tests.helpers import ROOT
from trainables import experiment
from trainables.data.data_settings import Data
from trainables.errors import ConfigError
from trainables.experiment import Experiment, load_experiment
from trainables.settings import assign, build, dump_yaml, flatten, read_yaml

FILES = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_shipped_recipe_loads_and_reads_back(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_yaml(experiment), encoding="utf-8")
    assert load_experiment(copy) == experiment
    assert load_experiment(copy).digest() == experiment.digest()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_shipped_recipe_says_how_it_is_run_and_how_long_it_takes(path: Path) -> None:
    head = path.read_text(encoding="utf-8").partition("name:")[0]
    assert f"experiments/{path.name}" in head or "make sweep" in head
    assert any(word in head for word in ("second", "minute", "hour"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_shipped_recipe_can_be_planned(path: Path) -> None:
    from trainables.pipeline import plan

    assert plan(load_experiment(path))[-1].stage == "evaluate"


def test_default_is_a_valid_recipe() -> None:
    assert load_experiment(None) == Experiment()


def test_flag_wins_over_the_file() -> None:
    path = ROOT / "experiments/digits.yaml"
    assert load_experiment(path).seed == 0
    assert load_experiment(path, ["seed=7"]).seed == 7


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["clasify.loss=ldam"], "experiment: unknown key 'clasify'.*did you mean 'classify'"),
        (["classify.training.lrr=1"], "unknown key 'lrr'.*did you mean 'lr'"),
        (["classify.training.lr=fast"], "classify.training.lr: .*allowed type.*received 'fast'"),
        (["classify.training.lr=0"], "classify.training.lr: .*greater than 0.*received 0"),
        (["classify.loss=supcon"], r"'supcon' trains the features and no head.*joint: \{contrast"),
        (
            ["classify.loss=joint", "classify.mixing=mixup"],
            "classify.mixing: the loss 'joint' compares",
        ),
        (
            ["classify.branches=hybrid"],
            "branches: 'hybrid' does not go with the loss 'cross_entropy'",
        ),
        (["classify.loss=paco", "classify.branches=bbn"], "'bbn' does not go with the loss 'paco'"),
        (
            ["classify.branches=bbn", "classify.mixing=mixup"],
            "'mixup' mixes one batch",
        ),
        (["classify.loss=ldan"], "classify.loss: unknown name 'ldan'.*did you mean 'ldam'"),
        (["classify.loss.ldam.max_margn=1"], r"classify.loss \(ldam\): unknown key 'max_margn'"),
        (["data.world=tset"], "data.world: .*, 'test' or 'service'.*received 'tset'"),
        (["data.image_size=4"], "data.image_size: .*greater than or equal to 8"),
        (["update.mode=trunk"], "update.mode: "),
        (["data.novel_classes=2", "data.validation_novel_classes=2"], "must be smaller than"),
        (["seed"], "path=value"),
    ],
)
def test_wrong_setting_is_one_clear_line(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(None, sets)
    assert "\n" not in str(caught.value)


def test_wrong_setting_in_a_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("classify: {training: {epoch: 3}}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"classify.training: unknown key 'epoch'.*'epochs'"):
        load_experiment(path)


def test_every_flat_name_is_accepted_by_set() -> None:
    experiment = load_experiment(ROOT / "experiments/digits.yaml")
    flat = flatten(experiment)
    plain = {k: v for k, v in flat.items() if not isinstance(v, str) or not v.startswith("[")}
    assert assign(experiment, plain) == experiment


def test_digest_does_not_depend_on_how_a_recipe_was_written() -> None:
    one = build(Experiment, {"classify": {"loss": "ldam"}})
    other = build(Experiment, {"classify": {"loss": {"ldam": {"max_margin": 0.5}}}})
    assert one.digest() == other.digest()
    assert one.digest() != Experiment().digest()


def test_dump_holds_every_setting(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(dump_yaml(Experiment()), encoding="utf-8")
    assert set(read_yaml(path)) == set(Experiment.model_fields)


@pytest.mark.parametrize(
    ("text", "sets", "profile"),
    [
        ("data: {source: 'folder:x'}", [], "natural"),
        ("data: {source: 'folder:x', profile: exponential}", [], "exponential"),
        ("data: {source: 'folder:x', profile: {step: {}}}", [], "step"),
        ("data: {source: 'folder:x'}", ["data.profile=balanced"], "balanced"),
        ("data: {source: 'folder:x'}", ["data.profile.natural.keep=1.0"], "natural"),
        ("data: {source: 'folder:x'}", ["data.source=digits"], "exponential"),
        ("data: {source: digits}", ["data.source=folder:x"], "natural"),
        ("data: {profile: exponential}", ["data.source=folder:x"], "exponential"),
        ("name: x", ["data={source: 'folder:x'}"], "natural"),
        ("name: x", ["data={source: 'folder:x', profile: exponential}"], "exponential"),
        ("name: x", [], "exponential"),
    ],
)
def test_own_folders_keep_their_class_sizes_unless_the_recipe_says(
    text: str, sets: list[str], profile: str, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text(text)
    recipe = load_experiment(tmp_path / "x.yaml", sets)
    assert recipe.data.profile.name == profile
    (tmp_path / "again.yaml").write_text(dump_yaml(recipe))  # a dump names it
    assert load_experiment(tmp_path / "again.yaml").digest() == recipe.digest()


def test_default_profile_of_own_folders_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment._say_once.cache_clear()
    (tmp_path / "x.yaml").write_text("data: {source: 'folder:x'}")
    for _ in range(2):
        load_experiment(tmp_path / "x.yaml")
    assert [record.message for record in caplog.records] == [
        "data.profile=natural: own images keep their class sizes unless it is set"
    ]
    load_experiment(None, ["data.source=folder:x", "data.profile=natural"])
    load_experiment(None)
    assert len(caplog.records) == 1


def test_recipes_of_other_sources_keep_their_digest() -> None:
    assert load_experiment(None).data.model_dump(mode="json")["profile"] == {
        "exponential": {"imbalance_factor": 20.0}
    }
    assert Data(source="cifar10") == build(Data, {"source": "cifar10", "profile": "exponential"})
