"""Content keys of stage results, from settings, inputs, seed and code.

The code part of a key is a digest of source files: those that the stage imports, directly or
indirectly (within this package, deferred imports included, typing-only imports excluded), those of
the methods in its settings, and those of the methods that code looks up by name. The key of an
artifact that names methods (a classifier its head, a scorer its score and calibrator) includes a
digest of those methods' code, see `identity`. A changed metric therefore recomputes ``evaluate``,
but no trained trunk.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import BaseModel

from trainables.methods.method import Choice, Method, path_mark, search_range
from trainables.settings import canonical_json

PACKAGE = "trainables"
ROOT = Path(__file__).parent
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")
CONFIG = "config.json"  # of weights: their architecture and preprocessing
# Modules that can't affect results: settings (their values are in every key), error messages and
# deferred imports. Data settings affect a result only through views, whose digests are in the key.
NOT_IN_RESULTS = frozenset(
    f"{PACKAGE}.{name}"
    for name in ("experiment", "settings", "data.data_settings", "errors", "lazy")
)


def result_key(stage: ModuleType, settings: BaseModel, inputs: Mapping[str, str], seed: int) -> str:
    """Return the content key of a stage's result (SHA-256, hex).

    Equal settings, input contents, seed, code and minor version of torch give an equal key in every
    process and on every host.

    Args:
        stage: The stage's module.
        settings: The stage's settings.
        inputs: `identity` of each artifact and content digest of each view, by name.
        seed: The run's seed.
    """
    real = {
        "stage": stage.__name__.rpartition(".")[2],
        "settings": with_contents(settings),
        "inputs": dict(inputs),
        "seed": seed,
        "code": code_digest(tuple(sorted(modules_of_stage(stage, settings)))),
        "torch": ".".join(torch.__version__.split(".")[:2]),
    }
    return hashlib.sha256(canonical_json(real).encode()).hexdigest()


def identity(artifact: object, digest: str, *, root: Path = ROOT) -> str:
    """Return the identity of an artifact in the keys of the steps that take it as an input.

    Args:
        artifact: An artifact or a view.
        digest: Digest of the content.
        root: Folder of this package.

    Returns:
        A digest of ``digest`` and of the code of the methods that the artifact names.
    """
    fields = artifact._asdict().values() if hasattr(artifact, "_asdict") else ()
    named = {name for value in fields if isinstance(value, Method) for name in modules_of(value)}
    if not named:
        return digest
    return hashlib.sha256(
        f"{digest} {code_digest(tuple(sorted(named)), root)}".encode()
    ).hexdigest()


def with_contents(settings: BaseModel) -> Any:
    """Return settings as plain values, with the paths of files replaced by content digests.

    Example:
        >>> from trainables.experiment import Experiment
        >>> with_contents(Experiment().score) == Experiment().score.model_dump(mode="json")
        True
    """
    plain = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value, mark = getattr(settings, name), path_mark(field)
        if mark is not None and mark.path(value):
            plain[name] = file_digest(mark.path(value))
        elif isinstance(value, Method):
            plain[name] = {value.name: with_contents(value)}
        elif isinstance(value, BaseModel):
            plain[name] = with_contents(value)
        elif isinstance(value, tuple) and any(isinstance(part, BaseModel) for part in value):
            parts = zip(value, plain[name], strict=True)
            plain[name] = [_part_with_contents(part, as_is) for part, as_is in parts]
    return plain


def _part_with_contents(part: object, as_is: object) -> object:
    """Return an entry of a list as `with_contents` does, given its plain value."""
    if isinstance(part, Method):
        return {part.name: with_contents(part)}
    return with_contents(part) if isinstance(part, BaseModel) else as_is


def file_digest(path: str) -> str:
    """Return the SHA-256 (hex) of a file's content, or ``absent`` for a missing file.

    ``config.json`` beside weights counts with them. The digest of a folder is that of the names and
    contents of its files of weights and configs.
    """
    path = os.path.expanduser(path)
    folder, name = os.path.split(path)
    if os.path.isdir(path):
        return _folder_digest(
            path, [n for n in os.listdir(path) if n.endswith((".json", *WEIGHTS))]
        )
    if name.endswith(WEIGHTS) and os.path.isfile(os.path.join(folder, CONFIG)):
        return _folder_digest(folder, [name, CONFIG])
    return _digest_of_one(path)


def _folder_digest(folder: str, names: list[str]) -> str:
    """Return the digest of files of a folder, of their names and contents."""
    content = [[name, _digest_of_one(os.path.join(folder, name))] for name in sorted(names)]
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _digest_of_one(path: str) -> str:
    try:
        stat = os.stat(path)
    except OSError:
        return "absent"
    return _file_digest(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=64)
def _file_digest(path: str, *version: int) -> str:
    """Digest a file once per process and version (inode, size, times)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- which modules ----------------------------------------------------------------------------


def methods_of(settings: BaseModel) -> Iterator[Method]:
    """Yield all methods in settings, nested methods included."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Method):
                yield part
            if isinstance(part, BaseModel):
                yield from methods_of(part)


def modules_of_stage(stage: ModuleType, settings: BaseModel) -> set[str]:
    """Return the modules of a stage, of its methods, and of the methods that these look up."""
    modules = {stage.__name__, *_modules_looked_up(stage, settings)}
    for method in methods_of(settings):
        modules |= modules_of(method, nested=False)
    return modules


def modules_of(method: Method, *, nested: bool = True) -> set[str]:
    """Return the modules of a method, of methods in its fields, and of methods it looks up."""
    name = type(method).__module__
    modules = {name, *_modules_looked_up(importlib.import_module(name), method)}
    for inner in methods_of(method) if nested else ():
        modules |= modules_of(inner, nested=False)
    return modules


def _modules_looked_up(module: ModuleType, settings: BaseModel) -> set[str]:
    """Return the modules of the methods that a module's code looks up by name.

    A module that calls ``Kind.lookup`` or ``Kind.parse`` declares the names in its constant
    ``LOOKED_UP``, a mapping from kind to names; a name ``.field`` stands for the names in that
    field of the settings.
    """
    modules: set[str] = set()
    declared: Mapping[str, tuple[str, ...]] = getattr(module, "LOOKED_UP", {})
    for kind, names in declared.items():
        shelf = importlib.import_module(f"{PACKAGE}.methods.{kind}")
        base = next(c for c in vars(shelf).values() if _is_kind(c, kind))
        for name in names:
            chosen = getattr(settings, name[1:]) if name.startswith(".") else (name,)
            for each in chosen:
                modules |= _modules_of_class(base.lookup(each))
    return modules


def _is_kind(value: object, kind: str) -> bool:
    """Say whether a value is the base class of the kind of methods with this name."""
    return isinstance(value, type) and issubclass(value, Method) and value.kind == kind


def _modules_of_class(cls: type[Method]) -> set[str]:
    """Return the modules of a method and of all methods that its fields may choose."""
    modules = {cls.__module__}
    for field in cls.model_fields.values():
        kind, allowed = field.annotation, search_range(field)
        if not (isinstance(kind, type) and issubclass(kind, Method)):
            continue
        names = list(allowed.values) if isinstance(allowed, Choice) else []
        default = field.default
        names += [default.name if isinstance(default, Method) else default]
        for name in names:
            modules |= _modules_of_class(kind.lookup(str(name)))
    return modules


# --- which files ------------------------------------------------------------------------------


@cache
def code_digest(modules: tuple[str, ...], root: Path = ROOT) -> str:
    """Return a digest of the source files that modules import, directly or indirectly.

    Args:
        modules: Full names; the imports of modules of other packages are not followed.
        root: Folder of the package.
    """
    digest = hashlib.sha256()
    for name in sorted(reached(modules, root)):
        path = _source(name, root) or Path(importlib.util.find_spec(name).origin)  # type: ignore[union-attr,arg-type]
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def reached(modules: Iterable[str], root: Path = ROOT) -> set[str]:
    """Return the modules that modules import, directly or indirectly, themselves included.

    Example:
        >>> found = reached(["trainables.stages.classify"])
        >>> "trainables.training.loop" in found, "trainables.features.kmeans" in found
        (True, False)
    """
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name in NOT_IN_RESULTS:
            continue
        found.add(name)
        path = _source(name, root)
        waiting += _imports(path, root) if path is not None else ()
    return found


def _source(name: str, root: Path) -> Path | None:
    """Return the file of a module of this package, otherwise ``None``."""
    first, *rest = name.split(".")
    if first != PACKAGE:
        return None
    path = root.joinpath(*rest)
    candidates = (
        (path.with_suffix(".py"), path / "__init__.py") if rest else (path / "__init__.py",)
    )
    return next((c for c in candidates if c.is_file()), None)


@cache
def _imports(path: Path, root: Path) -> tuple[str, ...]:
    """Return the modules of this package that a file imports, except typing-only imports."""
    imported: list[str] = []
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # an imported name may be a submodule, otherwise it is a name within the module
            imported += [_longest(f"{node.module}.{alias.name}", root) for alias in node.names]
    return tuple(dict.fromkeys(name for name in imported if _source(name, root) is not None))


def _longest(name: str, root: Path) -> str:
    """Return the name if it is a module's, otherwise the name of its parent module."""
    return name if _source(name, root) is not None else name.rpartition(".")[0]


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, except those below ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield other
                yield from _statements(other)
            continue
        yield node
        yield from _statements(node)
