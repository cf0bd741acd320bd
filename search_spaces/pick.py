"""`Pick`: values for ``vary(pick, base)`` from a trial, the base recipe or stored parameters.

A space is a function ``vary(pick, base) -> Experiment``. It asks ``pick`` for values, which come
from the base recipe (`Start`), an Optuna trial (`FromTrial`) or stored parameters (`Replay`).
`Pick.changes` holds all values by dotted name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol, TypeVar, cast, get_args

from trainables.errors import ConfigError, did_you_mean, unknown_key
from trainables.experiment import Experiment
from trainables.former_names import current_key
from trainables.methods.method import Choice, Method, Range, search_range

Scalar = str | int | float | bool
Choices = MutableMapping[str, list[Any]]
M = TypeVar("M", bound=Method)


class ValueSource(Protocol):
    """Source of parameter values."""

    def answer(self, name: str, default: Any, allowed: Range | Choice, integer: bool) -> Any:
        """Return a value in ``allowed`` for ``name``; ``default`` is the base's value."""
        ...


class Trial(Protocol):
    """The methods of an Optuna trial that `FromTrial` uses."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Draw a floating point number."""
        ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Draw an integer."""
        ...

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """Draw one of the listed values."""
        ...


class Start:
    """Value source that returns the base's values and collects the valid ones for the first trial.

    `params` holds the base's values that are within their range or list. The first trial of a study
    starts with these and draws the others.
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


class _StoredNames:
    """Names of parameters in a study or record with former names of methods.

    A field's parameter contains the name of its method (``score.method.msp.temperature``), which is
    a former name if the stored choice of the method is.
    """

    def __init__(self) -> None:
        self._stored: dict[str, str] = {}  # stored prefix by current prefix

    def of(self, name: str) -> str:
        """Return the stored name of a parameter."""
        fitting = (prefix for prefix in self._stored if name.startswith(prefix))
        prefix = max(fitting, key=len, default="")
        return self._stored.get(prefix, "") + name.removeprefix(prefix)

    def current(self, name: str, value: Any, allowed: Range | Choice) -> Any:
        """Return the current name of a stored choice, and note the stored name."""
        now = allowed.aliases.get(value, value) if isinstance(allowed, Choice) else value
        if now != value:
            self._stored[f"{name}.{now}."] = f"{self.of(name)}.{value}."
        return now


class Replay:
    """Value source that returns stored parameters, to rebuild a recipe.

    Args:
        params: Value by dotted name, as in `Pick.changes` or an Optuna trial's ``params``; methods
            may have their former names.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params
        self._names = _StoredNames()

    def answer(self, name: str, default: Any, allowed: Range | Choice, integer: bool) -> Any:
        """Return the stored value.

        Raises:
            ConfigError: The space asks for a parameter that is not stored.
        """
        stored = self._names.of(name)
        if stored not in self.params:
            raise ConfigError(
                f"the stored parameters lack '{stored}', which the space asks for"
                f"{did_you_mean(stored, self.params)}"
            )
        return self._names.current(name, self.params[stored], allowed)


class FromTrial:
    """Value source that draws from an Optuna trial.

    Args:
        trial: The trial.
        choices: Choices of each categorical parameter from its first use in the study on, because
            Optuna refuses a categorical whose choices change; a method file that is added later is
            therefore only in new studies. New parameters are added to the mapping.
            A renamed method keeps its former name in the study.
    """

    def __init__(self, trial: Trial, choices: Choices | None = None) -> None:
        self.trial = trial
        self.choices: Choices = {} if choices is None else choices
        self._names = _StoredNames()

    def answer(self, name: str, default: Any, allowed: Range | Choice, integer: bool) -> Any:
        """Return the value that the trial draws.

        Raises:
            ConfigError: The study was started with a choice that the space no longer has.
        """
        stored = self._names.of(name)
        if isinstance(allowed, Range):
            return self._number(stored, allowed, integer)
        frozen = self.choices.setdefault(stored, list(allowed.values))
        now = {value: allowed.aliases.get(value, value) for value in frozen}
        gone = [str(value) for value in frozen if now[value] not in allowed.values]
        if gone:
            raise ConfigError(
                f"{name}: the study was started with {', '.join(gone)}, which the space no longer "
                "offers; restore the choice, or start a study of another name"
            )
        return self._names.current(name, self.trial.suggest_categorical(stored, frozen), allowed)

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
    """Chooses values by a value source and collects them by dotted name.

    Args:
        answerer: Value source, e.g. `Start`, `FromTrial` or `Replay`.

    Example:
        >>> pick = Pick(Replay({"classify.training.lr": 0.2}))
        >>> pick.field(Experiment(), "classify.training.lr")
        0.2
        >>> pick.changes
        {'classify.training.lr': 0.2}
    """

    def __init__(self, answerer: ValueSource) -> None:
        self.answerer = answerer
        self.changes: dict[str, Any] = {}

    def method(self, path: str, default: M, among: Iterable[str] | None = None) -> M:
        """Choose a method of the default's kind, then its fields that have a search range.

        The method's parameter is named ``path``, a field's ``path.<method>.<field>``, so a field is
        searched only when its method is chosen. Fields that are methods are chosen in the same way.
        The default is always among the choices; its settings without a search range stay the same.
        Upper bounds (oracles) are left out.

        Args:
            path: Dotted name of the method in the experiment, e.g. ``classify.loss``.
            default: The base's method.
            among: Names to choose from; ``None`` for all methods of the kind.
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
        """Choose a method as `method` does, but no fields."""
        kind = kind_of(default)
        offered = set(kind.shelf) if among is None else {kind.lookup(n).name for n in among}
        offered = {name for name in offered | {default.name} if not kind.shelf[name].oracle}
        listed = Choice(tuple(sorted(offered)), kind.aliases)
        name = self._ask(path, default.name, listed, integer=False)
        if name != default.name:
            return kind.parse(str(name))
        self._keep(path, default)
        return default

    def _keep(self, path: str, method: Method) -> None:
        """Add a method's settings that differ from the method's defaults to `changes`."""
        plain = kind_of(method).parse(method.name)
        for field, value in method.model_dump(mode="json").items():
            setting, name = getattr(method, field), f"{path}.{method.name}.{field}"
            if setting == getattr(plain, field):
                continue
            self.changes[name] = setting.name if isinstance(setting, Method) else value
            if isinstance(setting, Method):
                self._keep(name, setting)

    def field(self, base: Experiment, path: str) -> Any:
        """Choose the value of a setting in the schema's search range.

        Args:
            base: The experiment with the default value.
            path: Dotted name, e.g. ``classify.training.lr``.

        Raises:
            ConfigError: The setting does not exist or has no search range in the schema.
        """
        owner: Any = base
        *parents, last = path.split(".")
        for part in (*parents, last):
            fields = type(owner).model_fields
            name = current_key(type(owner), part)
            if name not in fields:
                raise ConfigError(unknown_key(path.rpartition(".")[0], part, fields))
            info, owner = fields[name], getattr(owner, name)
        allowed = search_range(info)
        if allowed is None:
            raise ConfigError(f"{path}: the schema has no search range; use pick.value")
        return self._ask(path, owner, allowed, _whole(info.annotation))

    def value(self, path: str, default: Any, allowed: Range | Choice) -> Any:
        """Choose a value from a range or list that the space specifies.

        Args:
            path: Dotted name of the setting.
            default: The base's value.
            allowed: Range or listed values; a `Range` with integer ends draws integers, unless the
                default is a float.
        """
        ends = (allowed.low, allowed.high) if isinstance(allowed, Range) else ()
        integer = not isinstance(default, float) and all(isinstance(end, int) for end in ends)
        return self._ask(path, default, allowed, integer)

    def _ask(self, name: str, default: Any, allowed: Range | Choice, integer: bool) -> Any:
        value = self.answerer.answer(name, default, allowed, integer)
        self.changes[name] = value
        return value


def kind_of(method: M) -> type[M]:
    """Return the base class of a method's kind.

    Example:
        >>> kind_of(Experiment().classify.loss).__name__
        'Loss'
    """
    return cast(type[M], next(c for c in type(method).__mro__ if Method in c.__bases__))


def suited(kind: type[Method], tensors: Iterable[str]) -> list[str]:
    """Return the names of a kind's methods that need only the given tensors.

    Args:
        kind: Base class of the kind, e.g. ``Loss``.
        tensors: Tensors that the stage provides.
    """
    provided = set(tensors)
    return sorted(
        name for name, method in kind.shelf.items() if method.required_inputs() <= provided
    )


def _whole(annotation: Any) -> bool:
    """Say whether a setting is an integer (``int`` or ``int | None``)."""
    return annotation is int or any(_whole(part) for part in get_args(annotation))


Vary = Callable[[Pick, Experiment], Experiment]  # the function of a space
