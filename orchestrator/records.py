"""Record of a sweep, the JSON document ``sweep.json`` that the report and the commands read."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from orchestrator.locking.sweep_lock import write_file
from trainables.errors import ConfigError
from trainables.former_names import current_metric, current_metrics
from trainables.functional.paired_rules import Rate, Verdict
from trainables.text.redaction import redact

Scalar = str | int | float | bool | None
MetricName = Annotated[str, AfterValidator(current_metric)]
Metrics = Annotated[dict[str, float], AfterValidator(current_metrics)]


class Record(BaseModel):
    """Base class of the records; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


def fault_of(error: ValidationError | OSError) -> str:
    """Return in one line why a file is not a record: the first fault and where it is.

    Example:
        >>> try:
        ...     Objective.model_validate_json('{"metric": "m", "mode": "best"}')
        ... except ValidationError as error:
        ...     print(fault_of(error))
        mode: Input should be 'max' or 'min'
    """
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    text = f"{place}: {first['msg']}" if place else first["msg"]
    return " ".join(text.split())[:200]


class Objective(Record):
    """A validation metric to optimize."""

    metric: MetricName
    mode: Literal["max", "min"]


class StageUse(Record):
    """One stage result that a trial used, computed by the trial or reused from the stage store."""

    stage: str
    key: str
    reused: bool
    seconds: float  # computing time of the result, also if the trial reused it
    continued: int = 0  # epochs that a shorter training of the same recipe computed
    history: list[dict[str, float]] = []  # one entry per report; the key "epoch" numbers them
    chosen: dict[str, str] = {}  # what `auto` stood for, by the name of the setting

    @model_validator(mode="before")
    @classmethod
    def _without_run(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Leave out the MLflow run that results had in records of earlier versions."""
        return {name: value for name, value in content.items() if name != "run_id"}


SOUP = "soup-"  # begins the id of a finalist that is an average of trials


def _soup(trial_id: str) -> str:
    """Return what people call a soup; empty for a trial."""
    kind = trial_id.removeprefix(SOUP)
    return "" if kind == trial_id else f"{kind} soup"


class TrialRecord(Record):
    """One trial: its parameters, state, metrics and stages."""

    trial_id: str
    number: int
    state: Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]
    params: dict[str, Scalar]
    rung: dict[str, Scalar] = {}  # changes that a ladder's rung makes; empty without a ladder
    metrics: Metrics = {}
    seconds: float = 0.0
    error: str | None = None
    run_id: str | None = None
    stages: list[StageUse] = []

    @property
    def changes(self) -> dict[str, Scalar]:
        """Changes of the base recipe in this trial: parameters and rung."""
        return {**self.params, **self.rung}

    @property
    def title(self) -> str:
        """What people call it.

        Example:
            >>> TrialRecord(trial_id="t-7", number=7, state="COMPLETE", params={}).title
            'trial 7'
            >>> TrialRecord(trial_id="soup-greedy", number=24, state="COMPLETE", params={}).title
            'greedy soup'
        """
        return _soup(self.trial_id) or f"trial {self.number}"


class Interval(Record):
    """Mean over seeds and its 95 % t-interval; of one seed, ``low`` and ``high`` equal the mean."""

    mean: float
    low: float
    high: float
    values: list[float]

    def bracket(self) -> str:
        """Return the interval as text.

        Example:
            >>> Interval(mean=0.5, low=0.25, high=0.75, values=[0.4, 0.6]).bracket()
            '[0.2500, 0.7500]'
            >>> Interval(mean=0.5, low=0.5, high=0.5, values=[0.5]).bracket()
            '(one seed)'
        """
        return "(one seed)" if len(self.values) < 2 else f"[{self.low:.4f}, {self.high:.4f}]"


SMALLEST_ODDS = 1e-3  # fractions are clipped to [0.001, 0.999], because 0 and 1 have no logit


def interval(values: Sequence[float], *, fraction: bool = False) -> Interval:
    """Return mean and 95 % t-interval; of one value, the interval has zero width.

    Args:
        values: One value per seed.
        fraction: The values are in [0, 1]; the t-interval is computed of their logits and
            transformed back, so that it is in [0, 1] too.

    Example:
        >>> interval([1.0, 2.0, 3.0]).mean
        2.0
        >>> round(interval([1.0, 2.0, 3.0]).high, 2)
        4.48
        >>> found = interval([0.98, 0.99, 0.985], fraction=True)
        >>> round(found.low, 3), round(found.high, 3)
        (0.966, 0.994)
    """
    mean = statistics.fmean(values)
    if len(values) < 2 or max(values) == min(values):
        return Interval(mean=mean, low=mean, high=mean, values=list(values))
    if not fraction:
        low, high = _t_interval(values)
    else:
        inside = [min(max(v, SMALLEST_ODDS), 1 - SMALLEST_ODDS) for v in values]
        ends = _t_interval([math.log(v / (1 - v)) for v in inside])
        low, high = (1 / (1 + math.exp(-min(max(end, -700.0), 700.0))) for end in ends)
        low, high = min(low, mean), max(high, mean)
    return Interval(mean=mean, low=low, high=high, values=list(values))


def _t_interval(values: Sequence[float]) -> tuple[float, float]:
    from scipy.stats import t as student_t

    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = float(student_t.ppf(0.975, len(values) - 1)) * error
    return mean - half, mean + half


class FinalistRecord(Record):
    """A recipe that was run again on several seeds and evaluated once on the test set."""

    trial_id: str
    params: dict[str, Scalar]
    seeds: list[int]
    metrics: Annotated[dict[str, Interval], AfterValidator(current_metrics)]
    run_ids: list[str] = []
    arrays: str | None = None  # evaluation artifact of the first seed, below the sweep's folder
    chosen: dict[str, str] = {}  # what `auto` stood for in the run of the first seed
    pretrained_on: str = ""  # what the trunk was trained on before; empty in earlier records
    met_classes: list[str] = []  # classes that the trunk was trained on before, as labels tell
    served: Literal["first", "updated"] | None = None  # the model that answers; None: old record
    serving: str = ""  # why this one


class SelectionRecord(Record):
    """Choice of the winner among finalists, by validation metrics only."""

    winner: str  # trial id
    base: str | None = None  # trial id of the base recipe
    challenger: str | None = None  # trial id of the best finalist, if not the base recipe
    difference: Interval | None = (
        None  # of the first objective, challenger minus base, with 95 % interval
    )
    reason: str = ""


class ServiceRecord(Record):
    """The model that answers: the chosen recipe once more, with every class known."""

    trial_id: str  # of the recipe; the base's if the winner's could not serve
    seed: int
    classes: int
    images: int  # that it trained on
    calibrating: int = 0  # training images that calibrate and do not train
    test_images: int = 0
    notes: list[str] = []  # what is done otherwise than in the rehearsal
    metrics: Metrics = {}  # test/... and out_of_fold/... are its own, rehearsal/... the finalist's
    alarms: list[Rate] = []  # false alarm on the test part, by band
    uncalibrated: dict[str, list[str]] = {}  # by band: classes of which no image calibrates
    folder: str  # of the exported model, below the sweep's folder
    run: str  # name of its run


Step = Literal["finalist", "service", "promotion", "report"]


class FailureRecord(Record):
    """A step after the search that failed, without which the sweep went on.

    ``step`` is ``finalist`` (a recipe on one seed, or the export of its model), ``service`` (the
    chosen recipe with every class known), ``promotion`` or ``report``.
    """

    step: Step
    error: Annotated[str, AfterValidator(redact)]  # one line
    trial_id: str | None = None
    seed: int | None = None
    traceback: Annotated[str, AfterValidator(redact)] = ""

    def __str__(self) -> str:
        """Return the failure in one line.

        Example:
            >>> str(FailureRecord(step="finalist", error="loss is nan", trial_id="t7", seed=2))
            'finalist t7, seed 2: loss is nan'
        """
        place = self.step + (f" {self.trial_id}" if self.trial_id else "")
        return f"{place}{'' if self.seed is None else f', seed {self.seed}'}: {self.error}"


class GateRecord(Record):
    """One gate's decision on a challenger.

    ``passed`` says that the gate does not stand in the way: its verdict is not "refused". Records
    of before have no verdict; there, a gate that compared nothing is recorded as passed.
    ``needs`` is about how many test images would tell, if the gate cannot. ``origin`` is where the
    figure comes from that the gate read: ``test/``, ``out_of_fold/`` or ``rehearsal/``.
    """

    name: str
    passed: bool
    reason: str
    settings: dict[str, Scalar] = {}  # those that `--gate` changed
    verdict: Verdict = "passed"
    needs: int | None = None
    origin: str = ""

    @model_validator(mode="before")
    @classmethod
    def _with_verdict(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Give a record of before the verdict that it meant."""
        if isinstance(content, dict) and "verdict" not in content:
            return {**content, "verdict": "passed" if content.get("passed") else "refused"}
        return content

    @model_validator(mode="after")
    def _consistent(self) -> GateRecord:
        if self.passed is (self.verdict == "refused"):
            raise ValueError(f"gate '{self.name}': passed is {self.passed}, but {self.verdict}")
        return self

    def text(self) -> str:
        """Return the reason, with the settings that were changed.

        Example:
            >>> settings = {"allowed_regression": 2.0}
            >>> GateRecord(name="few", passed=True, reason="lost 1.5", settings=settings).text()
            'lost 1.5 (--gate few.allowed_regression=2.0)'
        """
        changed = "".join(f" (--gate {self.name}.{k}={v})" for k, v in self.settings.items())
        return f"{self.reason}{changed}"


class PromotionRecord(Record):
    """Promotion of a challenger: its registered version and the decisions of the gates.

    ``champion`` is the version that answered when a challenger was refused, if any did.
    """

    model: str
    version: str | None
    promoted: bool
    gates: list[GateRecord]
    champion: str | None = None


class SweepRecord(Record):
    """A sweep: settings, environment, trials, finalists and promotion."""

    name: str
    space: str = Field(validation_alias=AliasChoices("space", "study"))
    started: str  # ISO 8601, UTC
    seconds: float = 0.0
    experiment: dict[str, Any]
    objectives: list[Objective]
    sampler: str = "tpe"
    left_to_tpe: list[str] = []  # parameters that another sampler leaves to TPE
    asking_seconds: float = 0.0  # in which the driver asked the study for recipes and told values
    environment: dict[str, str]  # git, python, torch, ray, optuna, mlflow, host, cpus, gpus
    data: dict[str, Any] = {}  # digest, classes, counts per view
    content: dict[str, str] = {}  # digest of what each path of the recipe led to at the start
    trials: list[TrialRecord] = []
    finalists: list[FinalistRecord] = []
    selection: SelectionRecord | None = None  # absent in records of earlier versions
    served_source: str = ""  # the images of that model, with the parts of its ledger
    service: ServiceRecord | None = None  # of a sweep on one's own images
    promotion: PromotionRecord | None = None
    failures: list[FailureRecord] = []  # of finalists, report and promotion
    tracking_uri: Annotated[str, AfterValidator(redact)] = ""  # for people: without a password
    run_id: str | None = None

    @property
    def titles(self) -> dict[str, str]:
        """What people call trials and finalists, by id."""
        trials = {trial.trial_id: trial.title for trial in self.trials}
        ids = (finalist.trial_id for finalist in self.finalists)
        return trials | {found: _soup(found) or trials.get(found, found) for found in ids}

    def save(self, folder: Path) -> Path:
        """Write ``sweep.json`` atomically and return its path.

        Raises:
            SweepLostError: Another driver took the sweep over.
        """
        target = folder / "sweep.json"
        write_file(target, self.model_dump_json(indent=1).encode())
        return target

    @classmethod
    def load(cls, folder: Path) -> SweepRecord:
        """Read ``sweep.json`` from a sweep's folder.

        Raises:
            FileNotFoundError: The folder has no ``sweep.json``.
            ConfigError: The file is damaged, or another version of this project wrote it.
        """
        path = folder / "sweep.json"
        try:
            record = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise
        except (ValidationError, OSError) as error:
            raise ConfigError(
                f"{path} is damaged, or of another version: {fault_of(error)}; restore it from a "
                "backup, or give a new --name"
            ) from None
        names = {finalist.trial_id for finalist in record.finalists}
        if record.selection is not None and record.selection.winner not in names:
            raise ConfigError(f"{path} is damaged: its winner is none of its finalists")
        return record


def best_finalist(
    finalists: Sequence[FinalistRecord], objectives: Sequence[Objective]
) -> FinalistRecord:
    """Return the finalist with the best mean validation objectives, without using test metrics.

    With several objectives the smallest sum of ranks wins, one rank per objective.
    """
    totals = [0.0] * len(finalists)
    for objective in objectives:
        sign = -1.0 if objective.mode == "max" else 1.0
        name = f"validation/{objective.metric}"
        values = [sign * f.metrics[name].mean if name in f.metrics else math.inf for f in finalists]
        for position, value in enumerate(values):
            totals[position] += sum(other < value for other in values)
    return finalists[totals.index(min(totals))]


def winner(record: SweepRecord) -> FinalistRecord:
    """Return the recorded winner, or the best finalist of a record without a selection."""
    if record.selection is None:
        return best_finalist(record.finalists, record.objectives)
    return next(f for f in record.finalists if f.trial_id == record.selection.winner)
