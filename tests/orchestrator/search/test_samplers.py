"""Samplers: what is drawn is what Optuna draws; the rest is TPE's; a kill changes no draw."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from scipy.stats import qmc

from orchestrator.records import Objective
from orchestrator.search.sampler_names import SamplerPlan
from orchestrator.search.sampler_wrappers import PartialSampler, derive
from orchestrator.search.samplers import plan_sampler
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.sweep_study import superseded
from search_spaces.parameters import parameters_of
from search_spaces.pick import FromTrial, Pick, Start
from tests.helpers import ROOT
from tests.helpers.spaces import conditional, value_of
from trainables.errors import ConfigError
from trainables.experiment import Experiment

BASE = Experiment()
SPACE = "tests.helpers.spaces:conditional"
ACCURACY = Objective(metric="accuracy", mode="max")
SECONDS = Objective(metric="seconds", mode="min")
OWN = ("x", "y", "loss")  # what every recipe of the space has, and more than one value of
LEFT = (
    "loss.focal.gamma", "loss.ldam.form", "loss.ldam.form.hard.scale",
    "loss.ldam.form.soft.scale", "loss.ldam.margin",
)  # fmt: skip
# enough that each begins to learn: ten trials at first, a population of six, one of fifty
ENOUGH = {"tpe": 18, "random": 8, "gp": 15, "cmaes": 22, "nsga2": 60, "qmc": 10}
Make = Callable[..., StudySearcher]


def plan(name: str, objectives: int = 1, space: str = SPACE) -> SamplerPlan:
    return plan_sampler(name, space=space, base=BASE, objectives=["m"] * objectives)


@pytest.fixture
def searcher(tmp_path: Path) -> Iterator[Make]:
    """Make searchers; of one folder, each new one stands for a new process."""
    made: list[StudySearcher] = []

    def make(name: str, folder: str = "sweep", **given: Any) -> StudySearcher:
        objectives = given.pop("objectives", [ACCURACY])
        settings = {"space": SPACE, "num_trials": 500, "name": "same"} | given
        found = StudySearcher(
            folder=tmp_path / folder,
            base=BASE,
            objectives=objectives,
            sampler=plan(name, len(objectives), settings["space"]),
            **settings,
        )
        made.append(found)
        return found

    yield make
    for one in made:
        one.close()


def draw(search: StudySearcher, name: str) -> dict[str, Any]:
    found = search.suggest(name)
    assert isinstance(found, dict)
    return dict(found["params"])


def values_of(params: dict[str, Any], names: Sequence[str] = OWN) -> dict[str, float]:
    """Return what a recipe reaches by some of its parameters; the others do not matter."""
    some = {name: params[name] for name in names}
    return {"accuracy": value_of(some), "seconds": value_of({"x": params["y"]})}


def tell(
    search: StudySearcher, name: str, params: dict[str, Any], names: Sequence[str] = OWN
) -> None:
    search.on_trial_complete(name, {"completed": 1.0, "epoch": 1, **values_of(params, names)})


def run(search: StudySearcher, trials: int, prefix: str = "t") -> list[dict[str, Any]]:
    drawn = []
    for number in range(trials):
        drawn.append(draw(search, f"{prefix}{number}"))
        tell(search, f"{prefix}{number}", drawn[-1])
    return drawn


# --- who draws what -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gp", "nsga2", "qmc", "optuna.samplers:NSGAIIISampler"])
def test_parameters_of_some_recipes_are_left_to_tpe(name: str) -> None:
    assert plan(name) == SamplerPlan(name, frozenset(OWN), LEFT)


def test_choices_are_left_to_tpe_by_a_sampler_of_numbers() -> None:
    assert plan("cmaes") == SamplerPlan(
        "cmaes", frozenset({"x", "y"}), tuple(sorted((*LEFT, "loss")))
    )


@pytest.mark.parametrize("name", ["tpe", "random", "tests.helpers.own_samplers:Counting"])
def test_samplers_that_draw_all_by_themselves_leave_nothing(name: str) -> None:
    assert plan(name) == SamplerPlan(name, None, ())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("optuna.samplers:GPSamplr", r"there is no 'GPSamplr'; did you mean 'GPSampler'\?"),
        ("optuna.nowhere:X", "there is no module 'optuna.nowhere'"),
        ("nowhere:X", "there is no module 'nowhere'"),
        ("../optuna:X", r"'\.\./optuna' is no module"),
        ("optuna.trial:Trial", "Trial is no optuna.samplers.BaseSampler"),
        ("optuna.samplers:BaseSampler", "cannot be made: Can't instantiate abstract class"),
        ("tests.helpers.own_samplers:Choosy", "cannot be made: .* argument: 'temperature'"),
        ("tests.helpers.own_samplers:Failing", "1 objective: RuntimeError: no idea$"),
        ("optuna.samplers:BruteForceSampler", "ValueError: FloatDistribution.step must be given"),
        ("optunahub:nowhere/at/all:X", "nowhere/at/all is no folder, and cannot be loaded"),
    ],
)
def test_a_sampler_that_will_not_do_is_refused_in_one_line(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "none")  # no test goes to the network
    with pytest.raises(ConfigError, match=message) as error:
        plan(name)
    assert "\n" not in str(error.value)


def test_several_objectives_are_refused_where_they_cannot_be_searched() -> None:
    with pytest.raises(ConfigError, match=r"'cmaes' searches by one objective; .* received m, m"):
        plan("cmaes", 2)
    with pytest.raises(ConfigError, match="with this space and 2 objectives: ValueError"):
        plan("optuna.samplers:CmaEsSampler", 2)


def test_a_sampler_without_a_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'cmaes' can draw no .* numbers only, .* has a; give"):
        plan("cmaes", space="tests.helpers.spaces:listed")


class Recording(TPESampler):
    """TPE that keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__(multivariate=True, group=True, constant_liar=True, seed=0)
        self.together: list[set[str]] = []
        self.drawn: dict[str, Any] = {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.together.append({*search_space})
        self.drawn = super().sample_relative(study, trial, search_space)
        return dict(self.drawn)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        found = super().sample_independent(study, trial, param_name, param_distribution)
        self.drawn[param_name] = found
        return found


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_tpe_draws_the_rest_together_and_nothing_else() -> None:
    rest, gp = Recording(), optuna.samplers.GPSampler(seed=0, warn_independent_sampling=False)
    study = optuna.create_study(direction="maximize", sampler=PartialSampler(gp, rest, OWN))
    for _ in range(30):
        trial = study.ask()
        conditional(Pick(FromTrial(trial)), BASE)
        assert not rest.drawn.keys() & set(OWN)
        conditions = trial.params.keys() - {*OWN, "mode"}
        assert {n: trial.params[n] for n in conditions} == {n: rest.drawn[n] for n in conditions}
        study.tell(trial, value_of(trial.params))
    assert rest.together[-1] == set(LEFT)


# --- it is Optuna that draws --------------------------------------------------------------------


def tpe(seed: int) -> TPESampler:
    return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


def gp(seed: int) -> BaseSampler:
    rest = tpe(derive(seed, 0))
    return optuna.samplers.GPSampler(
        seed=seed, independent_sampler=rest, warn_independent_sampling=False
    )


def cmaes(seed: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


def nsga2(seed: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed)


def every_recipe(pick: Pick, base: Experiment) -> Experiment:
    """Ask for what every recipe of the space has."""
    always = parameters_of(conditional, base).always
    for name in OWN:
        pick.value(name, {"x": 0.5, "y": 0.01, "loss": "plain"}[name], always[name])
    return base


class Case(NamedTuple):
    """How a study is run.

    Attributes:
        at_once: So many trials run side by side.
        objectives: One or two.
        by: Parameters that the values depend on.
    """

    trials: int
    at_once: int = 1
    objectives: int = 1
    by: tuple[str, ...] = OWN


def alone(make: Any, vary: Any, case: Case) -> list[dict[str, Any]]:
    """Run a study by Optuna alone, each trial by a sampler of its own; return what was drawn."""
    directions: list[Any] = ["maximize", "minimize"]
    study = optuna.create_study(directions=directions[: case.objectives])
    start = Start()
    vary(Pick(start), BASE)
    study.enqueue_trial(start.params)
    running: list[Trial] = []
    drawn = []
    for number in range(case.trials):
        study.sampler = make(derive(0, number))
        running.append(study.ask())
        vary(Pick(FromTrial(running[-1])), BASE)
        drawn.append(running[-1].params)
        if len(running) == case.at_once:
            ended = running.pop(0)
            study.tell(ended, [*values_of(ended.params, case.by).values()][: case.objectives])
    return drawn


def ours(make: Make, name: str, case: Case) -> list[dict[str, Any]]:
    """Run a study by our searcher; return what was drawn."""
    search = make(name, objectives=[ACCURACY, SECONDS][: case.objectives])
    drawn: list[dict[str, Any]] = []
    for number in range(case.trials):
        drawn.append(draw(search, str(number)))
        ended = number + 1 - case.at_once
        if ended >= 0:
            tell(search, str(ended), drawn[ended], case.by)
    return drawn


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("at_once", [1, 4])
def test_tpe_is_optunas(searcher: Make, at_once: int, objectives: int) -> None:
    case = Case(30, at_once, objectives)
    drawn = ours(searcher, "tpe", case)
    assert drawn == alone(tpe, conditional, case)
    assert len({str(params) for params in drawn}) == 30


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    ("make", "case"),
    [
        (gp, Case(15)), (gp, Case(15, at_once=3)), (gp, Case(14, at_once=2, objectives=2)),
        (nsga2, Case(60, at_once=2, objectives=2)), (cmaes, Case(22, by=("x", "y"))),
    ],
)  # fmt: skip
def test_conditions_do_not_disturb_what_is_drawn(searcher: Make, make: Any, case: Case) -> None:
    """What every recipe has is drawn as in a space without conditions, by Optuna alone."""
    found = ours(searcher, make.__name__, case), alone(make, every_recipe, case)
    mine, theirs = ([{n: params[n] for n in case.by} for params in side] for side in found)
    assert mine == theirs
    assert len({str(params) for params in mine}) > 0.9 * case.trials


def test_qmc_is_one_sequence_over_what_every_recipe_has(searcher: Make) -> None:
    drawn = run(searcher("qmc", seed=5), 10)
    points = qmc.Sobol(3, seed=5, scramble=True).random(16)  # in the order of asking
    for params, (x, y, loss) in zip(drawn[1:], points[:9], strict=True):
        assert params["loss"] == ("plain", "focal", "ldam")[int(loss * 3)]
        assert params["x"] == pytest.approx(x)
        assert params["y"] == pytest.approx(1e-4 * 1e4**y)


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_it_finds_more_than_chance(searcher: Make, name: str) -> None:
    def best(sampler: str, seed: int) -> float:
        drawn = run(searcher(sampler, f"{sampler}{seed}", seed=seed), 24)
        return max(value_of(params) for params in drawn)

    chance = [best("random", seed) for seed in range(3)]
    assert sorted(best(name, seed) for seed in range(3))[1] > sorted(chance)[1]


# --- a kill changes no draw ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ENOUGH)
def test_a_run_that_goes_on_draws_what_one_run_would_have(searcher: Make, name: str) -> None:
    """Between two trials, nothing is lost: every process draws one of them."""
    whole = run(searcher(name, "whole"), ENOUGH[name])
    parts = []
    for number in range(ENOUGH[name]):
        search = searcher(name, "parts")
        parts += run(search, 1, f"{number}-")
        search.close()
    assert parts == whole


@pytest.mark.parametrize("name", ENOUGH)
def test_a_kill_in_the_middle_of_trials_changes_no_other_draw(searcher: Make, name: str) -> None:
    """Each third trial is killed and tried again (cmaes seeds itself by a trial's number)."""
    whole = run(searcher(name, "whole"), ENOUGH[name])
    search, parts = searcher(name, "parts"), []
    for number in range(ENOUGH[name]):
        params = draw(search, f"a{number}")
        if number % 3 == 2:  # no close: the process is gone
            search = searcher(name, "parts")
            assert draw(search, f"b{number}") == params
            tell(search, f"b{number}", params)
        else:
            tell(search, f"a{number}", params)
        parts.append(params)
    if name == "cmaes":
        assert parts[:3] == whole[:3]
        assert len({params["x"] for params in parts}) == len(parts)
        told = [t.system_attrs.get("cma:generation") for t in search.study.trials if t.value]
        assert [told.count(generation) for generation in range(3)] == [6, 6, 6]
    else:
        assert parts == whole
    told = search.study.get_trials(deepcopy=False)
    assert len(told) - len(superseded(told)) == ENOUGH[name]


DRAW = """
import sys, tempfile
from pathlib import Path
from tests.orchestrator.search.test_samplers import ACCURACY, BASE, SPACE, StudySearcher, plan, run
for name in ("tpe", "gp", "nsga2"):
    search = StudySearcher(folder=Path(tempfile.mkdtemp()), space=SPACE, base=BASE, num_trials=99,
                           objectives=[ACCURACY], sampler=plan(name), name="same")
    print(run(search, 13))
"""


def test_every_process_draws_the_same(tmp_path: Path) -> None:
    def drawn(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "TMPDIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", DRAW],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        said = [line for line in done.stderr.splitlines() if "'greenlet' package" not in line]
        assert said == [], "the plan says who draws what, once"
        return done.stdout

    assert drawn("1") == drawn("2")


def test_a_seed_decides(searcher: Make) -> None:
    first, other = (run(searcher("tpe", f"s{seed}", seed=seed), 13) for seed in (0, 1))
    assert first[0] == other[0], "the base"
    assert first[1:] != other[1:]


# --- samplers of somebody else ------------------------------------------------------------------


def test_a_sampler_may_keep_what_it_knows_in_memory(searcher: Make) -> None:
    drawn = run(searcher("tests.helpers.own_samplers:Counting"), 4)
    assert [params["x"] for params in drawn] == [0.5, 0.01, 0.02, 0.03]


def test_a_sampler_of_that_kind_draws_on_by_another_seed(searcher: Make) -> None:
    name = "tests.helpers.own_samplers:Counting"
    whole = run(searcher(name), 4)
    again = run(searcher(name), 3, "u")
    assert not {params["y"] for params in again} & {params["y"] for params in whole}


def test_a_sampler_that_tried_everything_repeats_itself(searcher: Make) -> None:
    space = "tests.helpers.spaces:listed"
    search = searcher("optuna.samplers:BruteForceSampler", space=space, num_trials=6)
    drawn = []
    while (found := search.suggest(str(len(drawn)))) != StudySearcher.FINISHED:
        assert isinstance(found, dict)
        search.on_trial_complete(str(len(drawn)), {"completed": 1.0, "accuracy": 0.5})
        drawn.append(str(found["params"]))
    assert len(drawn) == 6
    assert len(set(drawn[:4])) == len(set(drawn)) == 4


REGISTERED = """
from optuna.samplers import NSGAIISampler, RandomSampler

class Mine(RandomSampler):
    pass

class Breeding(NSGAIISampler):
    pass

NoSampler = dict
"""


def register(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(REGISTERED)


def test_a_package_of_a_local_registry(searcher: Make, tmp_path: Path) -> None:
    folder = tmp_path / "registry" / "package" / "samplers" / "mine"
    register(folder)
    assert plan(f"optunahub:{folder}:Mine").own is None
    assert plan(f"optunahub:{folder}:Breeding").own == frozenset(OWN)
    drawn = run(searcher(f"optunahub:{folder}:Breeding"), 5)
    assert len({str(params) for params in drawn}) == 5
    with pytest.raises(ConfigError, match=r"there is no 'Min'; did you mean 'Mine'\?"):
        plan(f"optunahub:{folder}:Min")
    with pytest.raises(ConfigError, match=r"NoSampler is no optuna\.samplers\.BaseSampler"):
        plan(f"optunahub:{folder}:NoSampler")


def test_a_package_that_was_downloaded_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name in the registry; optunahub keeps what it downloads, and finds it there."""
    registry = tmp_path / "github.com" / "optuna" / "optunahub-registry" / "main"
    register(registry / "package" / "samplers" / "mine")
    monkeypatch.setenv("OPTUNAHUB_CACHE_HOME", str(tmp_path))
    assert plan("optunahub:samplers/mine:Breeding").own == frozenset(OWN)
