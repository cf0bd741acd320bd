"""One function is baseline, space and replay; choices freeze; errors are one line."""

from typing import Annotated, Any

import optuna
import pytest

from search_spaces.pick import FromTrial, Pick, Replay, Start, kind_of, suited
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Method, Range, UnknownNameError
from trainables.methods.pseudo_labelers import PseudoLabeler
from trainables.methods.rebalancers import Rebalancer
from trainables.settings import assign


class Kind(Method):
    """A shelf of its own, so that these tests depend on no real method."""

    __module__ = "tests.kinds_of_test_pick"


class Plain(Kind):
    """No settings."""

    __module__ = "tests.plain"


class Rich(Kind):
    """Every form of range."""

    __module__ = "tests.rich"

    scale: Annotated[float, Range(0.1, 10.0, log=True)] = 1.0
    count: Annotated[int, Range(2, 10, step=2)] = 4
    optional: Annotated[int | None, Range(1, 3)] = None
    form: Annotated[str, Choice(("round", "square"))] = "round"
    fixed: float = 7.0


class Cheat(Kind):
    """An upper bound."""

    __module__ = "tests.cheat"

    oracle = True


def ask(seed: int = 0) -> optuna.Trial:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return study.ask()


def fixed(**params: Any) -> optuna.Trial:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({name.replace("__", "."): value for name, value in params.items()})
    return study.ask()


def test_defaults_keep_the_method_and_its_settings() -> None:
    pick, default = Pick(Start()), Rich(scale=3.0, fixed=1.0)
    assert pick.method("a.b", default) == default


def test_a_chosen_method_is_asked_for_all_its_ranges_and_no_other() -> None:
    trial = fixed(**{"a.b": "rich"})
    chosen = Pick(FromTrial(trial)).method("a.b", Plain())
    assert isinstance(chosen, Rich)
    assert set(trial.params) == {
        "a.b",
        "a.b.rich.scale",
        "a.b.rich.count",
        "a.b.rich.optional",
        "a.b.rich.form",
    }
    assert chosen.count in (2, 4, 6, 8, 10)
    assert isinstance(chosen.count, int)
    assert isinstance(chosen.optional, int)


def test_ranges_of_a_method_that_was_not_chosen_do_not_exist() -> None:
    trial = fixed(**{"a.b": "plain"})
    assert Pick(FromTrial(trial)).method("a.b", Rich()) == Plain()
    assert set(trial.params) == {"a.b"}


def test_settings_that_are_not_searched_stay_as_in_the_base() -> None:
    trial = fixed(**{"a.b": "rich"})
    pick = Pick(FromTrial(trial))
    chosen = pick.method("a.b", Rich(fixed=1.0))
    assert isinstance(chosen, Rich)
    assert chosen.fixed == 1.0
    assert pick.changes["a.b.rich.fixed"] == 1.0
    assert next(iter(pick.changes)) == "a.b", "a method is named before its settings"


def test_a_method_inside_a_method_is_chosen_with_its_own_ranges() -> None:
    for loss, asked in (("label_aware_smoothing", True), ("cross_entropy", False)):
        trial = fixed(**{"a.b": "lws_plus", "a.b.lws_plus.loss": loss})
        pick = Pick(FromTrial(trial))
        chosen = pick.method("a.b", Rebalancer.parse("none"), ["lws_plus"])
        assert chosen.loss.name == loss
        assert ("a.b.lws_plus.loss.label_aware_smoothing.head" in trial.params) is asked
        assert Pick(Replay(pick.changes)).method("a.b", Rebalancer.parse("none")) == chosen
        assert all(isinstance(value, str | int | float) for value in pick.changes.values())


def test_settings_of_a_method_inside_the_base_are_kept() -> None:
    settings = {"loss": {"deferred": {"base": {"focal": {"gamma": 3.0}}, "start": 0.5}}}
    base = Rebalancer.parse({"crt": settings})
    pick = Pick(Start())
    assert pick.method_only("a.b", base) == base
    assert pick.changes == {
        "a.b": "crt",
        "a.b.crt.loss": "deferred",
        "a.b.crt.loss.deferred.base": "focal",
        "a.b.crt.loss.deferred.base.focal.gamma": 3.0,
        "a.b.crt.loss.deferred.start": 0.5,
    }


def test_an_oracle_is_never_offered() -> None:
    choices: dict[str, list[Any]] = {}
    Pick(FromTrial(ask(), choices)).method("a.b", Plain())
    assert choices["a.b"] == ["plain", "rich"]
    assert "oracle" in PseudoLabeler.shelf


def test_an_oracle_in_the_base_stays_in_the_baseline() -> None:
    assert Pick(Start()).method("a.b", Cheat()) == Cheat()


def test_among_narrows_the_choice_and_keeps_the_base() -> None:
    choices: dict[str, list[Any]] = {}
    Pick(FromTrial(ask(), choices)).method("a.b", Plain(), among=["rich"])
    assert choices["a.b"] == ["plain", "rich"]
    with pytest.raises(UnknownNameError, match="did you mean 'rich'"):
        Pick(Start()).method("a.b", Plain(), among=["rihc"])


def test_method_only_leaves_the_fields_alone() -> None:
    trial = fixed(**{"a.b": "rich"})
    assert Pick(FromTrial(trial)).method_only("a.b", Plain()) == Rich()
    assert set(trial.params) == {"a.b"}


def test_a_method_file_that_is_added_later_does_not_join_a_running_study(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=1))
    choices: dict[str, list[Any]] = {}
    for number in range(4):
        if number == 2:
            monkeypatch.setitem(Kind.shelf, "another", Plain)
        trial = study.ask()
        Pick(FromTrial(trial, choices)).method("a.b", Plain())
        study.tell(trial, 0.0)
    assert choices["a.b"] == ["plain", "rich"]


def test_a_choice_that_went_away_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"a\.b: the study was started with gone") as error:
        Pick(FromTrial(ask(), {"a.b": ["gone", "plain"]})).method("a.b", Plain())
    assert "\n" not in str(error.value)


def test_field_reads_its_range_from_the_schema() -> None:
    trial = ask()
    value = Pick(FromTrial(trial)).field(Experiment(), "classify.training.lr")
    assert 0.01 <= value <= 1.0
    assert trial.distributions["classify.training.lr"].log  # type: ignore[attr-defined]


def test_field_refuses_unknown_paths_and_settings_without_range() -> None:
    with pytest.raises(ConfigError, match="did you mean 'lr'"):
        Pick(Start()).field(Experiment(), "classify.training.lrr")
    with pytest.raises(ConfigError, match="no search range"):
        Pick(Start()).field(Experiment(), "classify.training.epochs")


@pytest.mark.parametrize(
    ("default", "allowed", "kind"),
    [(3, Range(1, 5), int), (3.0, Range(1, 5), float), (0.5, Range(0.1, 0.9), float)],
)
def test_value_draws_plain_python_numbers(default: Any, allowed: Range, kind: type) -> None:
    value = Pick(FromTrial(ask())).value("x", default, allowed)
    assert type(value) is kind
    assert allowed.low <= value <= allowed.high


def test_replay_gives_the_same_and_names_what_it_lacks() -> None:
    trial = fixed(**{"a.b": "rich"})
    pick = Pick(FromTrial(trial))
    chosen = pick.method("a.b", Rich(fixed=1.0))
    assert Pick(Replay(pick.changes)).method("a.b", Rich(fixed=1.0)) == chosen
    assert Pick(Replay(trial.params)).method("a.b", Rich(fixed=1.0)) == chosen
    with pytest.raises(ConfigError, match=r"lack 'a\.b'"):
        Pick(Replay({})).method("a.b", Plain())


def test_kind_and_suited_methods_are_found() -> None:
    assert kind_of(Rich()) is Kind
    assert kind_of(Experiment().classify.loss) is Loss
    assert "cross_entropy" in suited(Loss, {"logits", "labels"})
    assert suited(Loss, set()) == []


def test_changes_of_a_real_base_rebuild_it() -> None:
    base = assign(Experiment(), {"classify.loss.ldam.max_margin": 0.3})
    pick = Pick(Start())
    pick.method_only("classify.loss", base.classify.loss)
    assert assign(Experiment(), pick.changes) == base


# --- methods that were renamed since a study began ----------------------------------------------


class Outer(Method):
    """A kind whose methods hold others."""

    __module__ = "tests.outers_of_test_pick"


class Empty(Outer):
    """Holds nothing."""

    __module__ = "tests.empty"


class Nested(Outer):
    """A method in a field."""

    __module__ = "tests.nested"

    inner: Annotated[Loss, Choice(("focal", "cross_entropy"))] = Loss.parse("focal")


FORMER = {
    "a.b": "nestled",
    "a.b.nestled.inner": "bifocal",
    "a.b.nestled.inner.bifocal.gamma": 2.5,
    "a.b.nestled.inner.bifocal.form": "detached",
}
CURRENT = {
    "a.b": "nested",
    "a.b.nested.inner": "focal",
    "a.b.nested.inner.focal.gamma": 2.5,
    "a.b.nested.inner.focal.form": "detached",
}
CHOSEN = Nested(inner=Loss.parse({"focal": {"gamma": 2.5, "form": "detached"}}))


@pytest.fixture
def renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kind, "aliases", {"wealthy": "rich"})
    monkeypatch.setattr(Outer, "aliases", {"nestled": "nested"})
    monkeypatch.setattr(Loss, "aliases", {"bifocal": "focal"})


@pytest.mark.parametrize("params", [FORMER, CURRENT], ids=["before", "now"])
@pytest.mark.usefixtures("renamed")
def test_replay_takes_parameters_from_before_a_method_was_renamed(params: dict[str, Any]) -> None:
    pick = Pick(Replay(params))
    assert pick.method("a.b", Empty()) == CHOSEN
    assert pick.changes == CURRENT


@pytest.mark.usefixtures("renamed")
def test_a_study_keeps_the_former_names_that_it_was_started_with() -> None:
    choices: dict[str, list[Any]] = {
        "a.b": ["empty", "nestled"],
        "a.b.nestled.inner": ["bifocal", "cross_entropy"],
        "a.b.nestled.inner.bifocal.form": ["detached", "sigmoid"],
    }
    frozen = {name: [*values] for name, values in choices.items()}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(FORMER)
    trial = study.ask()
    pick = Pick(FromTrial(trial, choices))
    assert pick.method("a.b", Empty()) == CHOSEN
    assert trial.params == FORMER, "Optuna refuses another list, and TPE must see one parameter"
    assert pick.changes == CURRENT
    assert choices == frozen
    assert Pick(Replay(trial.params)).method("a.b", Empty()) == CHOSEN


@pytest.mark.usefixtures("renamed")
def test_a_renamed_choice_that_the_space_no_longer_offers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a\.b: the study was started with wealthy, which"):
        Pick(FromTrial(ask(), {"a.b": ["plain", "wealthy"]})).method("a.b", Plain(), ["plain"])


@pytest.mark.usefixtures("renamed")
def test_a_space_may_name_methods_as_they_were_called() -> None:
    choices: dict[str, list[Any]] = {}
    Pick(FromTrial(ask(), choices)).method_only("a.b", Plain(), among=["wealthy"])
    assert choices["a.b"] == ["plain", "rich"]
