"""The searcher: states, links, restarts, and a real Ray Tune that drives it."""

import json
import math
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray import tune

from orchestrator.records import Objective
from orchestrator.search.journal import SweepJournal
from orchestrator.search.sampler_names import SamplerPlan
from orchestrator.search.schedulers import make_scheduler
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.sweep_study import MAX_ATTEMPTS, link_runs, superseded
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.methods.losses import Loss
from trainables.methods.scores import Score
from trainables.methods.scores.msp import MSP
from trainables.settings import assign

ACCURACY = Objective(metric="accuracy", mode="max")
SECONDS = Objective(metric="seconds", mode="min")
FINISHED = StudySearcher.FINISHED


@pytest.fixture
def searcher(tmp_path: Path) -> Any:
    """Make searchers on one folder; each new one stands for a new process."""
    made: list[StudySearcher] = []

    def make(**settings: Any) -> StudySearcher:
        found = StudySearcher(
            **{
                "folder": tmp_path / "sweep",
                "space": "full",
                "base": Experiment(),
                "objectives": [ACCURACY],
                "num_trials": 20,
            }
            | settings
        )
        made.append(found)
        return found

    yield make
    for one in made:
        one.close()


def states(searcher: StudySearcher) -> list[str]:
    return [trial.state.name for trial in searcher.study.get_trials(deepcopy=False)]


def finish(searcher: StudySearcher, name: str, **result: Any) -> None:
    searcher.on_trial_complete(name, {"completed": 1.0, "epoch": 5} | result)


def test_a_suggestion_is_a_number_and_flat_plain_parameters(searcher: Any) -> None:
    search = searcher()
    suggestion = search.suggest("ray_0")
    assert set(suggestion) == {"trial_number", "params"}
    assert suggestion["trial_number"] == 0
    assert json.loads(json.dumps(suggestion)) == suggestion
    assert "classify.loss" in suggestion["params"]
    assert search.params(0) == suggestion["params"]


def test_the_base_comes_first(searcher: Any) -> None:
    search = searcher(base=assign(Experiment(), {"update.training.lr": 0.03}))
    assert assign(Experiment(), search.suggest("a")["params"]) == search.base
    assert search.study.trials[0].user_attrs["baseline"]
    assert search.suggest("b")["params"]["update.training.lr"] != 0.03


def test_a_grid_is_tried_point_by_point_and_each_once(searcher: Any) -> None:
    search = searcher(space="ablation", num_trials=9)
    found = [search.suggest(f"ray_{n}")["params"] for n in range(9)]
    assert found[0]["classify.loss"] == Experiment().classify.loss.name
    assert len({json.dumps(params, sort_keys=True) for params in found}) == 9


def test_what_the_base_has_out_of_range_is_drawn_at_first(searcher: Any) -> None:
    changes = {"update.training.lr": 5.0, "discover.pseudo_labeler": "oracle"}
    first = searcher(base=assign(Experiment(), changes)).suggest("a")["params"]
    assert first["update.training.lr"] <= 1.0
    assert first["discover.pseudo_labeler"] != "oracle"
    assert first["classify.loss"] == Experiment().classify.loss.name


def test_it_ends_after_the_asked_number(searcher: Any) -> None:
    search = searcher(num_trials=3)
    names = ["a", "b", "c"]
    assert all(search.suggest(name) != FINISHED for name in names)
    assert search.remaining == 0
    assert search.suggest("d") is None, "one that runs may be lost"
    for name in names:
        finish(search, name, accuracy=0.5)
    assert search.suggest("d") == FINISHED


@pytest.mark.parametrize("trials", [1, 4])
def test_a_trial_whose_worker_died_is_tried_again_in_its_place(searcher: Any, trials: int) -> None:
    search = searcher(num_trials=trials)
    first = search.suggest("a")
    search.on_trial_complete("a", error=True)
    assert search.remaining == trials - 1
    assert search.try_again(0)
    assert search.remaining == trials
    assert search.suggest("b") == {"trial_number": 1, "params": first["params"]}
    lost, retry = search.study.get_trials()
    assert lost.state is TrialState.FAIL
    assert superseded([lost, retry]) == {0}
    assert (retry.user_attrs["retry_of"], retry.user_attrs["attempt"]) == (0, 1)
    finish(search, "b", accuracy=0.5)
    assert run_all(search, "c") == trials - 1


def test_lost_trials_are_those_with_a_successor_or_the_mark_of_one_to_come() -> None:
    def trial(number: int, **attributes: Any) -> FrozenTrial:
        made = create_trial(state=TrialState.FAIL, user_attrs=attributes)
        made.number = number
        return made

    trials = [
        trial(0),  # failed for good
        trial(1),  # tried again as 3
        trial(2, superseded=True),  # marked, and the driver died before it was enqueued
        trial(3, retry_of=1),  # lost, too: tried again as 4
        trial(4, retry_of=3),
    ]
    assert superseded(trials) == {1, 2, 3}
    assert superseded(trials[:1]) == set()
    assert superseded(trials[:3]) == {2}


def test_a_recipe_that_kills_its_workers_is_given_up(searcher: Any) -> None:
    search = searcher(num_trials=2)
    for number in range(MAX_ATTEMPTS):
        assert search.suggest(f"ray_{number}")["trial_number"] == number
        search.on_trial_complete(f"ray_{number}", error=True)
        assert search.try_again(number) == (number < MAX_ATTEMPTS - 1)
    assert search.remaining == 1
    params = [search.params(number) for number in range(MAX_ATTEMPTS)]
    assert params == params[:1] * MAX_ATTEMPTS
    assert run_all(search, "b") == 1


def test_complete_trials_carry_value_and_links(searcher: Any) -> None:
    search = searcher()
    search.suggest("ray_0")
    search.annotate("ray_0", mlflow_run="run7")
    finish(search, "ray_0", accuracy=0.7, stage_keys=["k1", "k2"])
    trial = search.study.trials[0]
    assert trial.state is TrialState.COMPLETE
    assert trial.value == 0.7
    assert trial.user_attrs["ray_trial"] == "ray_0"
    assert trial.user_attrs["stage_keys"] == ["k1", "k2"]
    assert trial.user_attrs["mlflow_run"] == "run7"


def test_runs_of_ended_trials_are_linked_in_the_study(searcher: Any) -> None:
    search = searcher()
    for name in ("ray_0", "ray_1"):
        search.suggest(name)
        finish(search, name, accuracy=0.7)
    folder, objectives = search.folder, search.objectives
    search.close()
    link_runs(folder, objectives, {"trial-0000": "abc"})
    link_runs(folder, objectives, {"trial-0001": "def"})
    assert searcher().study.user_attrs["mlflow_runs"] == {"trial-0000": "abc", "trial-0001": "def"}


def test_stage_keys_that_ray_flattened_are_put_together(searcher: Any) -> None:
    search = searcher()
    search.suggest("a")
    finish(search, "a", accuracy=0.7, **{"stage_keys/classify": "k1"})
    assert search.study.trials[0].user_attrs["stage_keys"] == {"classify": "k1"}


def test_a_stopped_trial_is_pruned_with_its_fidelity(searcher: Any) -> None:
    search = searcher()
    search.suggest("a")
    search.on_trial_result("a", {"epoch": 1, "accuracy": 0.2})
    search.on_trial_complete("a", {"epoch": 2, "accuracy": 0.3, "done": True})
    trial = search.study.trials[0]
    assert trial.state is TrialState.PRUNED
    assert trial.intermediate_values == {1: 0.2, 2: 0.3}
    assert trial.value == 0.3


def test_another_metric_can_tell_the_fidelity(searcher: Any) -> None:
    search = searcher(fidelity=Objective(metric="loss", mode="min"))
    search.suggest("a")
    search.on_trial_complete("a", {"epoch": 2, "loss": 0.3})
    assert search.study.trials[0].intermediate_values == {2: -0.3}


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (None, True),
        (None, False),
        ({"completed": 1.0, "epoch": 5, "accuracy": math.nan}, False),
        ({"completed": 1.0, "epoch": 5, "accuracy": math.inf}, False),
        ({"completed": 1.0, "epoch": 5}, False),
        ({"epoch": 2, "accuracy": math.nan}, False),
    ],
)
def test_crash_and_nan_fail_and_leave_nothing_running(
    searcher: Any, result: Any, error: bool
) -> None:
    search = searcher()
    search.suggest("a")
    search.on_trial_complete("a", result, error)
    assert states(search) == ["FAIL"]
    assert search.study.trials[0].user_attrs["reason"]


def test_several_objectives(searcher: Any) -> None:
    search = searcher(objectives=[ACCURACY, SECONDS])
    for name, accuracy, seconds in (("a", 0.7, 9.0), ("b", 0.6, 1.0), ("c", 0.5, 5.0)):
        search.suggest(name)
        search.on_trial_result(name, {"epoch": 1, "accuracy": 0.1})
        finish(search, name, accuracy=accuracy, seconds=seconds)
    search.suggest("d")
    search.on_trial_complete("d", {"epoch": 1, "accuracy": 0.1})
    search.suggest("e")
    finish(search, "e", accuracy=0.9, seconds=math.nan)
    assert states(search) == ["COMPLETE"] * 3 + ["PRUNED", "FAIL"]
    assert {trial.number for trial in search.study.best_trials} == {0, 1}


def test_the_first_word_on_a_trial_counts(searcher: Any) -> None:
    search = searcher()
    search.suggest("a")
    finish(search, "a", accuracy=0.7)
    finish(search, "a", accuracy=0.9)
    search.on_trial_result("a", {"epoch": 9, "accuracy": 0.9})
    search.on_trial_complete("stranger", {"accuracy": 0.9})
    assert search.study.trials[0].value == 0.7
    assert len(search.study.trials) == 1


def run_all(search: StudySearcher, prefix: str) -> int:
    count = 0
    while search.suggest(f"{prefix}{count}") != FINISHED:
        finish(search, f"{prefix}{count}", accuracy=0.1 * (count % 7))
        count += 1
    return count


def test_a_new_run_tries_again_what_was_running_and_counts_it_once(searcher: Any) -> None:
    first = searcher(num_trials=6)
    lost = {}
    for name in ("a", "b", "c"):
        lost[name] = first.suggest(name)["params"]
    finish(first, "a", accuracy=0.5)
    del lost["a"]
    second = searcher(num_trials=6)  # no close: the first was killed
    assert second.remaining == 5
    again = [second.suggest(name)["params"] for name in ("d", "e")]
    assert again == list(lost.values())
    for name in ("d", "e"):
        finish(second, name, accuracy=0.5)
    assert run_all(second, "f") == 3
    counts = Counter(states(second))
    assert counts == {"COMPLETE": 6, "FAIL": 2}
    assert [t.user_attrs.get("retry_of") for t in second.study.trials[3:5]] == [1, 2]
    assert all(t.user_attrs["superseded"] for t in second.study.trials if t.state.name == "FAIL")


def test_opening_twice_enqueues_once(searcher: Any) -> None:
    first = searcher()
    first.suggest("a")
    assert states(searcher()) == ["FAIL", "WAITING"]
    assert states(searcher()) == ["FAIL", "WAITING"]


def test_a_kill_between_the_two_steps_of_settling_enqueues_once(searcher: Any) -> None:
    first = searcher()
    params = first.suggest("a")["params"]
    first.study.enqueue_trial(params, user_attrs={"retry_of": 0, "attempt": 1})
    assert states(searcher()) == ["FAIL", "WAITING"]


def test_a_recipe_that_kills_the_driver_is_given_up(searcher: Any) -> None:
    for _ in range(3):
        searcher(num_trials=2).suggest("a")
    last = searcher(num_trials=2)
    assert states(last) == ["FAIL"] * 3
    assert last.remaining == 1, "given up, it counts as one of the two"


def test_close_is_no_attempt(searcher: Any) -> None:
    for _ in range(5):
        search = searcher(num_trials=1)
        assert search.suggest("a") != FINISHED
        search.close()
    assert searcher(num_trials=1).remaining == 1


def test_more_trials_can_be_asked_for_later(searcher: Any) -> None:
    assert run_all(searcher(num_trials=3), "a") == 3
    assert run_all(searcher(num_trials=5), "b") == 2


def test_a_run_that_goes_on_draws_something_new(searcher: Any) -> None:
    first = searcher()
    drawn = [first.suggest(name)["params"] for name in "abc"]
    for name in "abc":
        finish(first, name, accuracy=0.5)
    second = searcher()
    assert not any(second.suggest(name)["params"] in drawn for name in "def")


def test_a_seed_fixes_the_draws(searcher: Any, tmp_path: Path) -> None:
    def draws(folder: str, seed: int) -> list[dict[str, Any]]:
        search = searcher(folder=tmp_path / folder, seed=seed, name="same")
        found = []
        for number in range(14):
            found.append(search.suggest(str(number))["params"])
            finish(search, str(number), accuracy=number % 5)
        return found

    assert draws("a", 0) == draws("b", 0)
    assert draws("c", 1)[1:] != draws("d", 0)[1:]


def test_restore_keeps_the_trials_that_ray_goes_on_with(searcher: Any, tmp_path: Path) -> None:
    first = searcher()
    for name in ("a", "b"):
        first.suggest(name)
    first.save(str(tmp_path / "state"))
    first.suggest("c")  # after the snapshot: Ray does not know it
    copy = pickle.loads(pickle.dumps(first))
    copy.restore(str(tmp_path / "state"))
    assert states(copy) == ["RUNNING", "RUNNING", "FAIL", "WAITING"]
    finish(copy, "a", accuracy=0.5)
    assert copy.study.trials[0].state is TrialState.COMPLETE
    copy.close()


def test_a_trial_that_ended_after_the_snapshot_is_not_counted_again(
    searcher: Any, tmp_path: Path
) -> None:
    first = searcher()
    first.suggest("a")
    first.save(str(tmp_path / "state"))
    finish(first, "a", accuracy=0.5)
    second = searcher()
    second.restore(str(tmp_path / "state"))
    finish(second, "a", accuracy=0.9)
    assert [trial.value for trial in second.study.trials] == [0.5]


def test_another_recipe_space_or_objective_is_refused(searcher: Any) -> None:
    searcher()
    for change, message in (
        ({"base": assign(Experiment(), {"seed": 1})}, "started with experiment"),
        ({"space": "update"}, "started with space search_spaces.full:vary"),
        ({"objectives": [SECONDS]}, "started with objectives accuracy:max, now it is seconds:min"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            searcher(**change)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="did you mean 'full'"):
        searcher(space="fulll")


def test_another_sampler_is_refused(searcher: Any) -> None:
    searcher()
    with pytest.raises(ConfigError, match="was started with sampler tpe, now it is random; give"):
        searcher(sampler=SamplerPlan("random"))
    assert json.loads((searcher().folder / "study.json").read_text())["sampler"] == "tpe"


def test_a_study_from_before_samplers_had_names_goes_on_with_tpe(searcher: Any) -> None:
    first = searcher()
    drawn = [first.suggest(name)["params"] for name in "ab"]
    manifest = first.folder / "study.json"
    content = json.loads(manifest.read_text())
    del content["sampler"]
    manifest.write_text(json.dumps(content))
    assert searcher().suggest("c")["params"] == drawn[0], "lost and tried again"
    with pytest.raises(ConfigError, match="was started with sampler tpe, now it is gp"):
        searcher(sampler=SamplerPlan("gp"))


def test_asking_and_telling_are_timed(searcher: Any) -> None:
    search = searcher()
    assert search.seconds == 0.0
    start = time.perf_counter()
    search.suggest("a")
    asked = search.seconds
    finish(search, "a", accuracy=0.5)
    assert 0.0 < asked < search.seconds < time.perf_counter() - start


def test_a_method_that_is_added_later_does_not_join(
    searcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = searcher(space="long_tail")
    first.suggest("a")
    before = first.manifest.choices["classify.loss"]
    monkeypatch.setitem(Loss.shelf, "zzz", Loss.shelf["cross_entropy"])
    second = searcher(space="long_tail")
    for number in range(15):
        second.suggest(str(number))
        finish(second, str(number), accuracy=0.1)
    assert second.manifest.choices["classify.loss"] == before
    assert "zzz" not in before


def test_a_method_that_went_away_is_refused(searcher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher(space="long_tail").suggest("a")
    monkeypatch.delitem(Loss.shelf, "focal")
    second = searcher(space="long_tail")
    second.close()
    with pytest.raises(ConfigError, match="started with focal"):
        second.suggest("b")
    assert "RUNNING" not in states(second)


def test_a_study_from_before_a_method_was_renamed_goes_on(
    searcher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"space": "open_world", "objectives": [ACCURACY]}
    with monkeypatch.context() as before:
        before.setattr(MSP, "name", "least_confident")
        before.setattr(Score, "aliases", {})
        before.delitem(Score.shelf, "msp")
        before.setitem(Score.shelf, "least_confident", MSP)
        base = assign(Experiment(), {"score.method.least_confident.temperature": 2.0})
        first = searcher(base=base, **settings)
        for number in range(2):
            first.suggest(str(number))
        finish(first, "1", accuracy=0.5)  # the base recipe, trial 0, is lost
        started = {name: [*values] for name, values in first.manifest.choices.items()}
        lost = first.study.get_trials(deepcopy=False)[0].params
        first.close()
    assert "least_confident" in started["score.method"]
    assert lost["score.method.least_confident.temperature"] == 2.0

    base = assign(Experiment(), {"score.method.msp.temperature": 2.0})
    second = searcher(base=base, **settings)  # the manifest has the digest of the recipe of before
    replayed = second.params(0)
    assert replayed["score.method"] == "msp"
    assert replayed["score.method.msp.temperature"] == 2.0
    assert assign(base, replayed).score == base.score
    drawn = [second.suggest(f"again{number}")["params"] for number in range(8)]
    trials = second.study.get_trials(deepcopy=False)
    assert trials[2].params == lost
    assert drawn[0] == replayed, "the lost recipe is tried again"
    assert not [name for params in drawn for name in params if "least_confident" in name]
    assert not [name for trial in trials for name in trial.params if "msp" in name]
    assert second.manifest.choices == started


HOLD = """
import sys, time
from pathlib import Path
from orchestrator.search.searcher import StudySearcher
from orchestrator.records import Objective
from trainables.experiment import Experiment
search = StudySearcher(folder=Path(sys.argv[1]), space="full", base=Experiment(), num_trials=9,
                       objectives=[Objective(metric="accuracy", mode="max")])
for number in range(4):
    search.suggest(f"ray_{number}")
    if number < 2:
        search.on_trial_complete(f"ray_{number}", {"completed": 1.0, "accuracy": 0.5})
print("ready", flush=True)
time.sleep(100)
"""


def test_one_driver_at_a_time_and_a_killed_one_is_succeeded(searcher: Any, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    driver = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline().strip() == "ready"
    search = searcher(num_trials=9)
    with pytest.raises(ConfigError, match=f"being run by process {driver.pid}"):
        search.suggest("a")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    journal = folder / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code":')  # killed in the middle of a line
    assert run_all(search, "b") == 7
    assert Counter(states(search)) == {"COMPLETE": 9, "FAIL": 2}


def test_the_journal_is_optunas(searcher: Any, tmp_path: Path) -> None:
    search = searcher()
    search.suggest("a")
    finish(search, "a", accuracy=0.5)
    backend = JournalFileBackend(str(tmp_path / "sweep" / "study.journal"))
    study = optuna.load_study(study_name="sweep", storage=JournalStorage(backend))
    assert study.best_value == 0.5


@pytest.mark.parametrize("tail", [b"", b"x" * 10, b"x" * 10_000])
def test_only_a_torn_line_is_dropped(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "journal"
    whole = b"".join(b'{"a": %d}\n' % i for i in range(3000))
    path.write_bytes(whole + tail)
    SweepJournal(path)
    assert path.read_bytes() == whole


def test_bookkeeping_reads_what_is_new_and_no_more(
    searcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[int] = []
    read: list[int] = []
    append, reread = SweepJournal.append_logs, SweepJournal.read_logs

    def counting(self: SweepJournal, logs: list[dict[str, Any]]) -> None:
        lines.append(len(logs))
        append(self, logs)

    def listening(self: SweepJournal, start: int) -> Any:
        logs = list(reread(self, start))
        read.append(len(logs))
        return iter(logs)

    monkeypatch.setattr(SweepJournal, "append_logs", counting)
    monkeypatch.setattr(SweepJournal, "read_logs", listening)
    search = searcher(num_trials=40)
    for number in range(40):
        lines.clear()
        read.clear()
        search.suggest(str(number))
        finish(search, str(number), accuracy=(number * 7) % 11)
        assert max(read) <= max(lines), "the journal is read from its beginning"


@pytest.fixture(scope="module")
def cluster() -> Any:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def make_trainable() -> Any:
    """Return a trial whose number says what happens to it; nested, so that it travels by value."""

    def trial(config: dict[str, Any]) -> None:
        number = config["trial_number"]
        for epoch in range(1, 5):
            if number == 2 and epoch == 2:
                raise RuntimeError("crash")
            tune.report({"epoch": epoch, "watched": 1.0 if number < 3 else 1.0 / number})
        accuracy = math.nan if number == 1 else float(number)
        tune.report({"epoch": 5, "accuracy": accuracy, "completed": 1.0, "stage_keys": ["k"]})

    return trial


@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ray_tune_drives_it_and_nothing_is_left_running(searcher: Any, tmp_path: Path) -> None:
    search = searcher(num_trials=8, fidelity=Objective(metric="watched", mode="max"))
    scheduler = make_scheduler(
        "asha", metric="watched", max_epochs=4, grace_epochs=2, folder=tmp_path / "sweep"
    )
    tuner = tune.Tuner(
        make_trainable(),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(tmp_path / "tune"), verbose=0),
    )
    tuner.fit()
    found = states(search)
    assert found[:3] == ["COMPLETE", "FAIL", "FAIL"]
    assert "PRUNED" in found[3:], "later trials are worse at the first rung"
    assert "RUNNING" not in found
    assert len(found) == 8
    pruned = next(t for t in search.study.trials if t.state is TrialState.PRUNED)
    assert list(pruned.intermediate_values) == [1, 2]
    assert search.study.trials[0].user_attrs["stage_keys"] == ["k"]
    assert all("ray_trial" in trial.user_attrs for trial in search.study.trials)
