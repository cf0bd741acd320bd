"""What a sweep can be told."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlparse

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field

from orchestrator.records import Objective, PromotionRecord
from trainables.data.source_names import TABLE, own_kind
from trainables.errors import ConfigError, short

DEFAULT_STORAGE, DEFAULT_MODEL = "runs", "longtail"
EXPORTED = "served"  # a folder in that of a model of `fit`: the model that answers
MODELS, LEDGER = "models", "splits.jsonl"  # a folder of the storage, a file for each model in it
LONGEST_NAME = 255  # bytes, in file systems
MOST_BYTES = 200  # of a name: file systems allow 255, and names get endings
_NAME = re.compile(r"\w[\w.+@=,() -]*")
_ODD = re.compile(r"[^\w.+@=,() -]+")


def check_name(option: str, name: str) -> str:
    """Return a name that can be a folder and an entry of the model registry.

    Args:
        option: The option that the name was given to, for messages.
        name: The name.

    Raises:
        ConfigError: It would lie in another folder, or is not allowed in MLflow or a file system.

    Example:
        >>> check_name("--name", "monday 2"), check_name("--model", "Käfer.v2")
        ('monday 2', 'Käfer.v2')
    """
    if not _NAME.fullmatch(name) or len(name.encode()) > MOST_BYTES:
        raise ConfigError(
            f"{option}: must begin with a letter or digit, go on with these, spaces and any of "
            f"_ . + @ = , ( ) -, and have at most {MOST_BYTES} bytes; received {short(name)}"
        )
    return name


def name_of_folder(folder: Path) -> str:
    """Return a name that a registered model can have, from the real name of a folder.

    Raises:
        ConfigError: The folder's name has no letter or digit.

    Example:
        >>> name_of_folder(Path("/data/my photos")), name_of_folder(Path("/data/--cats & dogs!"))
        ('my photos', 'cats - dogs')
    """
    return _name_of(folder, folder.expanduser().resolve().name)


def name_of_source(source: str) -> str:
    """Return the name of the model that images of ``data.source`` make, unless one is asked for.

    It is the folder's real name, or the table's without its ending. Data sets with a name of their
    own share one model.

    Raises:
        ConfigError: The name of the folder or table has no letter or digit.

    Example:
        >>> name_of_source("folder:/data/my photos"), name_of_source("table:lists/birds.v2.csv")
        ('my photos', 'birds.v2')
        >>> name_of_source("digits")
        'longtail'
    """
    kind = own_kind(source)
    if not kind:
        return DEFAULT_MODEL
    place = Path(source.removeprefix(kind).strip())
    return _name_of(place, place.stem) if kind == TABLE else name_of_folder(place)


def _name_of(place: Path, real: str) -> str:
    """Return a name for a registered model from what a folder or table is called."""
    name = _ODD.sub("-", real).strip(" -.+@=,()_")
    while len(name.encode()) > MOST_BYTES:
        name = name[:-1]
    if not name:
        raise ConfigError(
            f"{place}: its name can't name a model, {short(real)} has no letter or digit; "
            "give --model NAME"
        )
    return check_name("--model", name)


def _share(value: float) -> float:
    """Return a number of CPUs or GPUs that Ray can give, which counts in shares of 0.0001."""
    if value and not 0.001 <= value <= 1_000_000:
        raise ValueError("must be 0 or between 0.001 and 1000000")
    return value


def _share_of_gpu(value: float) -> float:
    """Return a number of GPUs that Ray can give: a share of one, or whole ones."""
    if value > 1 and not value % 1 == 0:  # "not", because infinity % 1 is NaN
        raise ValueError("must be a share of one GPU or a whole number")
    return _share(value)


Number = Annotated[int, Field(ge=1, le=1_000_000)]


class SweepOptions(BaseModel):
    """What ``sweep`` can be told; every field is an option of the command.

    Args:
        experiment: The base recipe.
        sets: ``path=value`` texts that change it.
        space: Search space, a module of ``search_spaces``.
        name: Name of the sweep; an old name goes on with it. Empty: space and time.
        trials: How many recipes are tried in all.
        storage: Path or URI that all hosts reach; stage results and records live there.
        concurrency: Trials at a time; ``None``: as many as the cluster's CPUs and GPUs hold.
        cpus_per_trial: CPUs that a trial occupies; it runs one thread.
        gpus_per_trial: GPUs (or a share of one) that a trial occupies.
        train_workers: Workers that train a trunk together (Ray Train). With more than one, a trial
            holds almost nothing while it waits; each worker holds a CPU, and a GPU if trials are
            given any.
        scheduler: Who stops poor trials early, or lets good ones train longer (``ladder``).
        sampler: Where new recipes come from: ``tpe``, ``random``, ``gp``, ``cmaes``, ``nsga2``,
            ``qmc``, ``package.module:Class`` or ``optunahub:PACKAGE:Class``.
        objectives: Validation metrics; empty: those of the study.
        finalists: How many recipes are run again on all seeds and tested.
        soup: Let averages of the best trials that share a trunk be finalists too.
        num_seeds: Seeds per finalist.
        data_seeds: Cut the data anew for each seed of a finalist's validation.
        model: Name of the registered model; empty: of one's own images the name of their folder or
            table, else ``longtail``.
        promote: Register the winner and ask the gates.
        gates: ``gate.setting=value`` texts that change the gates' defaults.
        address: Ray cluster to join; ``None``: a running one that Ray knows of, else a local one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Path = Path("experiments/digits.yaml")
    sets: tuple[str, ...] = ()
    space: str = Field(default="full", validation_alias=AliasChoices("space", "study"))
    name: Annotated[str, AfterValidator(lambda n: n and check_name("--name", n))] = ""
    trials: Number = 24
    storage: str = DEFAULT_STORAGE
    concurrency: Number | None = None
    cpus_per_trial: Annotated[float, Field(gt=0), AfterValidator(_share)] = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0), AfterValidator(_share_of_gpu)] = 0.0
    train_workers: Number = Field(
        default=1, validation_alias=AliasChoices("train_workers", "workers")
    )
    scheduler: Literal["none", "asha", "hyperband", "ladder"] = "none"
    sampler: str = "tpe"
    objectives: tuple[Objective, ...] = ()
    finalists: Number = 2
    soup: bool = False
    num_seeds: Number = Field(default=3, validation_alias=AliasChoices("num_seeds", "seeds"))
    data_seeds: bool = False
    model: Annotated[str, AfterValidator(lambda n: n and check_name("--model", n))] = ""
    promote: bool = True
    gates: tuple[str, ...] = ()
    address: str | None = None


def parse_objective(text: str) -> Objective:
    """Parse ``metric:mode``.

    Raises:
        ConfigError: The mode is neither ``max`` nor ``min``.

    Example:
        >>> parse_objective("evaluate/accuracy:max")
        Objective(metric='evaluate/accuracy', mode='max')
    """
    metric, _, mode = text.rpartition(":")
    if not metric or mode not in ("max", "min"):
        raise ConfigError(f"--objective is written METRIC:max or METRIC:min; received '{text}'")
    return Objective.model_validate({"metric": metric, "mode": mode})


def local_folder(storage: str) -> Path:
    """Return where records, study and report go: the storage itself if it is a local path.

    Raises:
        ConfigError: The storage is no path.

    Example:
        >>> local_folder("s3://bucket/runs").name, local_folder("file:///tmp/a%20b").name
        ('runs', 'a b')
    """
    plain = unquote(urlparse(storage).path) if storage.startswith("file://") else storage
    if not plain or "\0" in plain or max(map(len, os.fsencode(plain).split(b"/"))) > LONGEST_NAME:
        raise ConfigError(f"--storage: must be a folder or a URI; received {short(storage)}")
    return (Path(DEFAULT_STORAGE) if "://" in plain else Path(plain).expanduser()).resolve()


def folder_of_model(storage: str, model: str) -> Path:
    """Return where the ledger of parts of a registered model lies, and what `fit` keeps of it.

    Example:
        >>> folder_of_model("/data/runs", "flowers").as_posix()
        '/data/runs/models/flowers'
    """
    return local_folder(storage) / MODELS / model


def command(words: str, *, storage: str, model: str = "") -> str:
    """Return a command with the storage and model that it needs, as a shell takes it.

    Example:
        >>> command("promote list", storage="runs"), command("promote list", storage="my runs")
        ('orchestrator promote list', "orchestrator promote list --storage 'my runs'")
    """
    # a model is always named: the line still holds when there are several
    told = [("--storage", storage, DEFAULT_STORAGE), ("--model", model, "")]
    options = [f" {option} {shlex.quote(value)}" for option, value, usual in told if value != usual]
    return f"orchestrator {words}{''.join(options)}"


def remedies(record: PromotionRecord, storage: str) -> list[str]:
    """Return what can be done about a refused promotion; empty for one that passed.

    Example:
        >>> from orchestrator.records import GateRecord
        >>> refusal = GateRecord(name="few", passed=False, reason="lost 4 points")
        >>> record = PromotionRecord(model="m", version="3", promoted=False, gates=[refusal])
        >>> for line in remedies(record, "runs"):
        ...     print(line.partition("   ")[0])
        orchestrator promote version 3 --model m --gate few.allowed_regression=NUMBER
        orchestrator promote version 3 --model m --force
    """
    from trainables.methods.gates import Gate

    refusing = [gate.name for gate in record.gates if not gate.passed]
    if record.promoted or not refusing:
        return []
    if record.version is None or "provenance" in refusing:
        return ["no option overrides this refusal: choose a recipe without what it names"]
    again = command(f"promote version {record.version}", storage=storage, model=record.model)
    settings = {
        name: list(Gate.shelf[name].model_fields) for name in refusing if name in Gate.shelf
    }
    limits = [
        f"{name}.{'allowed_regression' if 'allowed_regression' in known else known[0]}"
        for name, known in settings.items()
        if known
    ]
    judged = [f"{again} --gate {limit}=NUMBER   judges it anew" for limit in limits]
    return [*judged[:1], f"{again} --force   makes it champion all the same; it is recorded"]
