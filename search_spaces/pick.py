"""One function is baseline, search space and replay: what differs is who answers its questions.

A space is ``vary(pick, base) -> Experiment``. It asks ``pick`` for values; ``pick`` answers with
the base's own values (`Defaults`), from an Optuna trial (`FromTrial`) or from stored parameters
(`Replay`), and keeps every answer in `Pick.changes` under its dotted name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Protocol, TypeVar, cast, get_args

from trainables.errors import ConfigError, did_you_mean, unknown_key
from trainables.experiment import Experiment
from trainables.methods.method import Choice, Method, Range, search_range

Scalar = str | int | float | bool
Choices = MutableMapping[str, list[Any]]
M = TypeVar("M", bound=Method)


class Answerer(Protocol):
    """Gives the value of a named question."""

    def answer(self, name: str, default: Any, allowed: Range | Choice, integer: bool) -> Any:
        """Return a value for ``name`` out of ``allowed``; ``default`` is the base's."""
        ...


class Trial(Protocol):
    """What is used of an Optuna trial."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Draw a number."""
        ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Draw a whole number."""
        ...

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """Draw one of the listed values."""
        ...


class Defaults:
    """Answers with the base's own values: the baseline."""

    def answer(self, name: str, default: Any, allowed: Range | Choice, integer: bool) -> Any:
        """Return the default."""
        return default


class Start:
    """Answers with the base's own values and keeps those that a study can begin with.

    `params` holds the answers that lie within their range or list; the first trial of a study
    takes them over and draws the others.
    """

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}

    def answer(self, name: str, default: Any, allowed: Range | Choice, integer: bool) -> Any:
        """Return the default."""
        if isinstance(allowed, Choice):
            within = default in allowed.values
        else:
            within = default is not None and allowed.low <= default <= allowed.high
        if within:
            self.params[name] = default
        return default


class Replay:
    """Answers with stored parameters: the same recipe again.

    Args:
        params: Value by dotted name, as in `Pick.changes` or an Optuna trial's ``params``.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def answer(self, name: str, default: Any, allowed: Range | Choice, integer: bool) -> Any:
        """Return the stored value.

        Raises:
            ConfigError: The space asks for something that was not stored.
        """
        if name not in self.params:
            raise ConfigError(
                f"the stored parameters lack '{name}', which the space asks for"
                f"{did_you_mean(name, self.params)}"
            )
        return self.params[name]


class FromTrial:
    """Answers from an Optuna trial.

    Args:
        trial: The trial that draws.
        choices: Choices per categorical name, kept from a study's first use of the name to its
            end: Optuna refuses a categorical whose choices change, so a method file that is added
            later joins new studies only. Names that are asked for the first time are added.
    """

    def __init__(self, trial: Trial, choices: Choices | None = None) -> None:
        self.trial = trial
        self.choices: Choices = {} if choices is None else choices

    def answer(self, name: str, default: Any, allowed: Range | Choice, integer: bool) -> Any:
        """Return what the trial draws.

        Raises:
            ConfigError: The study was started with a choice that the space no longer has.
        """
        if isinstance(allowed, Range):
            return self._number(name, allowed, integer)
        frozen = self.choices.setdefault(name, list(allowed.values))
        gone = [str(value) for value in frozen if value not in allowed.values]
        if gone:
            raise ConfigError(
                f"{name}: the study was started with {', '.join(gone)}, which the space no longer "
                "offers; restore it, or start a study of another name"
            )
        return self.trial.suggest_categorical(name, frozen)

    def _number(self, name: str, allowed: Range, integer: bool) -> int | float:
        if integer:
            step = int(allowed.step or 1)
            return self.trial.suggest_int(
                name, int(allowed.low), int(allowed.high), step=step, log=allowed.log
            )
        return self.trial.suggest_float(
            name, allowed.low, allowed.high, step=allowed.step, log=allowed.log
        )


class Pick:
    """Asks an answerer for values and keeps them by dotted name.

    Args:
        answerer: `Defaults`, `FromTrial` or `Replay`.

    Example:
        >>> pick = Pick(Replay({"classify.training.lr": 0.2}))
        >>> pick.field(Experiment(), "classify.training.lr")
        0.2
        >>> pick.changes
        {'classify.training.lr': 0.2}
    """

    def __init__(self, answerer: Answerer) -> None:
        self.answerer = answerer
        self.changes: dict[str, Any] = {}

    def method(self, path: str, default: M, among: Iterable[str] | None = None) -> M:
        """Choose a method of the default's kind, then every field of it that has a search range.

        The choice is called ``path``, a field ``path.<method>.<field>``: a range exists only when
        its method is chosen. A field that is a method itself is chosen from its list in this way.
        The default's method is always among the choices; settings of it that are not searched stay
        as in the default. Upper bounds (oracles) are left out.

        Args:
            path: Where the method stands in the experiment, e.g. ``classify.loss``.
            default: The base's method.
            among: Names to choose from; ``None``: the whole shelf.
        """
        chosen = self.method_only(path, default, among)
        prefix = f"{path}.{chosen.name}."
        values = {}
        for name, field in type(chosen).model_fields.items():
            allowed, value = search_range(field), getattr(chosen, name)
            if isinstance(allowed, Choice) and isinstance(value, Method):
                inner = self.method(f"{prefix}{name}", value, map(str, allowed.values))
                values[name] = inner.dump()
            elif allowed is not None:
                values[name] = self._ask(
                    f"{prefix}{name}", value, allowed, _whole(field.annotation)
                )
        tree = chosen.model_dump(mode="json") | values
        return kind_of(chosen).parse({chosen.name: tree})

    def method_only(self, path: str, default: M, among: Iterable[str] | None = None) -> M:
        """Choose a method as `method` does, and leave its fields alone."""
        kind = kind_of(default)
        offered = set(kind.shelf) if among is None else {kind.lookup(n).name for n in among}
        offered = {name for name in offered | {default.name} if not kind.shelf[name].oracle}
        name = self._ask(path, default.name, Choice(tuple(sorted(offered))), integer=False)
        if name != default.name:
            return kind.parse(str(name))
        self._keep(path, default)
        return default

    def _keep(self, path: str, method: Method) -> None:
        """Note the settings of a method in which it differs from its defaults."""
        plain = kind_of(method).parse(method.name)
        for field, value in method.model_dump(mode="json").items():
            own, name = getattr(method, field), f"{path}.{method.name}.{field}"
            if own == getattr(plain, field):
                continue
            self.changes[name] = own.name if isinstance(own, Method) else value
            if isinstance(own, Method):
                self._keep(name, own)

    def field(self, base: Experiment, path: str) -> Any:
        """Choose the value of a setting; its range is read from the schema.

        Args:
            base: The experiment whose value is the default.
            path: Dotted name, e.g. ``classify.training.lr``.

        Raises:
            ConfigError: There is no such setting, or the schema gives it no search range.
        """
        owner: Any = base
        *parents, last = path.split(".")
        for part in (*parents, last):
            fields = type(owner).model_fields
            if part not in fields:
                raise ConfigError(unknown_key(path.rpartition(".")[0], part, fields))
            info, owner = fields[part], getattr(owner, part)
        allowed = search_range(info)
        if allowed is None:
            raise ConfigError(f"{path}: the schema gives no search range; use pick.value")
        return self._ask(path, owner, allowed, _whole(info.annotation))

    def value(self, path: str, default: Any, allowed: Range | Choice) -> Any:
        """Choose a value out of a range that the space gives.

        Args:
            path: Dotted name of the setting.
            default: The base's value.
            allowed: Range or listed values; a `Range` with whole ends and a whole or absent
                default draws whole numbers.
        """
        ends = (allowed.low, allowed.high) if isinstance(allowed, Range) else ()
        integer = not isinstance(default, float) and all(isinstance(end, int) for end in ends)
        return self._ask(path, default, allowed, integer)

    def _ask(self, name: str, default: Any, allowed: Range | Choice, integer: bool) -> Any:
        value = self.answerer.answer(name, default, allowed, integer)
        self.changes[name] = value
        return value


def kind_of(method: M) -> type[M]:
    """Return the kind of a method: the class whose shelf it stands on.

    Example:
        >>> kind_of(Experiment().classify.loss).__name__
        'Loss'
    """
    return cast(type[M], next(c for c in type(method).__mro__ if Method in c.__bases__))


def suited(kind: type[Method], tensors: Iterable[str]) -> list[str]:
    """Return the names on a shelf whose call needs nothing but the given tensors.

    Args:
        kind: The shelf, e.g. ``Loss``.
        tensors: What the stage provides.
    """
    provided = set(tensors)
    return sorted(name for name, method in kind.shelf.items() if method.needs() <= provided)


def _whole(annotation: Any) -> bool:
    """Say whether a setting holds whole numbers (``int`` or ``int | None``)."""
    return annotation is int or any(_whole(part) for part in get_args(annotation))
