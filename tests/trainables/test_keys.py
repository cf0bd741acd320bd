"""A stage's key follows what its code reaches: checked on a copied tree, file by file."""

from __future__ import annotations

import ast
import hashlib
import importlib
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import pytest
import torch

from tests.helpers import ROOT
from trainables import keys
from trainables.artifacts import Classifier, Scorer
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.keys import (
    code_digest,
    file_digest,
    identity,
    methods_of,
    modules_of_stage,
    with_contents,
)
from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.method import ContentOfFile, Method
from trainables.methods.pretrainers import Pretrainer
from trainables.methods.scores import Score
from trainables.pipeline import STAGES, Step, plan, run, step_key
from trainables.settings import Settings, assign

BASE = Experiment()
PACKAGE = ROOT / "trainables"
TRUNKS = {"pretrain", "classify"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "trainables", ignore=ignored))


def codes(root: Path, recipe: Experiment = BASE) -> dict[str, str]:
    """The code part of each stage's key, read from a tree."""
    code_digest.cache_clear()
    keys._imports.cache_clear()
    return {
        step.stage: code_digest(tuple(sorted(modules_of_stage(step.module, step.settings))), root)
        for step in plan(recipe)
    }


def changed(tree: Path, *files: str, recipe: Experiment = BASE) -> set[str]:
    """Stages whose code part changes when a line is appended to files."""
    before = codes(tree, recipe)
    for file in files:
        with (tree / file).open("a", encoding="utf-8") as source:
            source.write("\n# another line\n")
    after = codes(tree, recipe)
    return {stage for stage in before if before[stage] != after[stage]}


AFTER_TRAINING = [
    "features/kmeans.py",
    "features/head_training.py",
    "functional/distillation.py",
    *(str(p.relative_to(PACKAGE)) for kind in ("scores", "metrics", "rebalancers")
      for p in sorted((PACKAGE / "methods" / kind).glob("[a-z]*.py"))),
]  # fmt: skip


def test_what_comes_after_training_leaves_trained_trunks_alone(tree: Path) -> None:
    stages = changed(tree, *AFTER_TRAINING)
    assert not stages & TRUNKS
    assert {"rebalance", "score", "discover", "evaluate"} <= stages


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("methods/metrics/open_set.py", {"evaluate"}),
        ("methods/metrics/clustering.py", {"evaluate"}),
        ("features/kmeans.py", {"discover"}),
        ("training/step_batches.py", {"classify"}),
        ("stages/rebalance.py", {"rebalance"}),
        ("experiment.py", set()),
        ("errors.py", set()),
        ("methods/scores/gen.py", set()),  # chosen by nobody in this recipe
        ("methods/__init__.py", set()),
        ("training/__init__.py", set()),
    ],
)
def test_a_change_reaches_the_stages_that_use_it(tree: Path, file: str, stages: set[str]) -> None:
    assert changed(tree, file) == stages


@pytest.mark.parametrize("file", ["training/loop.py", "models/backbone.py", "data/loader.py"])
def test_how_trunks_train_is_in_their_keys(tree: Path, file: str) -> None:
    assert changed(tree, file) >= TRUNKS


def test_methods_of_a_recipe_are_in_the_keys_of_their_stages(tree: Path) -> None:
    recipe = assign(BASE, {"classify.loss": "ldam", "rebalance.method": "crt"})
    assert "classify" in changed(tree, "methods/losses/ldam.py", recipe=recipe)
    assert changed(tree, "methods/rebalancers/crt.py", recipe=recipe) == {"rebalance"}
    assert "rebalance" in changed(tree, "features/head_training.py", recipe=recipe)


def test_methods_within_methods_and_within_phases_are_in_the_key(tree: Path) -> None:
    nested = assign(BASE, {"classify.sampler": {"deferred": {"base": "class_aware"}}})
    assert changed(tree, "methods/samplers/class_aware.py", recipe=nested) == {"classify"}
    phases = assign(BASE, {"classify.then": [{"epochs": 1, "lr": 0.1, "loss": "ldam"}]})
    assert changed(tree, "methods/losses/ldam.py", recipe=phases) == {"classify"}
    members = [{"crt": {"loss": "balanced_softmax"}}, "lda"]
    soup = assign(BASE, {"rebalance.method.soup.members": members})
    for file in (
        "rebalancers/soup",
        "rebalancers/crt",
        "rebalancers/lda",
        "losses/balanced_softmax",
    ):
        assert "rebalance" in changed(tree, f"methods/{file}.py", recipe=soup), file
    assert "rebalance" not in changed(tree, "methods/rebalancers/fecam.py", recipe=soup)


def test_what_a_method_tries_by_name_is_in_its_key(tree: Path) -> None:
    recipe = assign(BASE, {"rebalance.method": "tuned"})
    for file in ("rebalancers/crt", "rebalancers/none", "losses/label_aware_smoothing"):
        assert "rebalance" in changed(tree, f"methods/{file}.py", recipe=recipe), file
    few = assign(BASE, {"rebalance.method.tuned.among": ["tau_norm"]})
    assert "rebalance" not in changed(tree, "methods/rebalancers/crt.py", recipe=few)


def test_a_new_file_counts_when_somebody_imports_it(tree: Path) -> None:
    before = codes(tree)
    (tree / "training" / "novelty.py").write_text("X = 1\n", encoding="utf-8")
    assert codes(tree) == before
    with (tree / "stages" / "score.py").open("a", encoding="utf-8") as source:
        source.write("\nfrom trainables.training import novelty\n")
    imported = codes(tree)
    assert {s for s in before if before[s] != imported[s]} == {"score"}
    assert changed(tree, "training/novelty.py") == {"score"}


def test_an_import_for_typing_alone_is_not_followed(tree: Path) -> None:
    before = codes(tree)
    with (tree / "stages" / "score.py").open("a", encoding="utf-8") as source:
        source.write("\nif TYPE_CHECKING:\n    from trainables.features import kmeans\n")
    assert codes(tree)["score"] != before["score"]  # the file itself changed
    assert changed(tree, "features/kmeans.py") == {"discover"}


def classifier(head: str) -> Classifier:
    zeros = torch.zeros(2)
    return Classifier(Head.parse(head), 2, {"weight": torch.eye(2)}, zeros, torch.ones(2), zeros)


def test_an_artifact_carries_the_code_of_the_methods_that_it_names(tree: Path) -> None:
    def of(artifact: object) -> str:
        code_digest.cache_clear()
        keys._imports.cache_clear()
        return identity(artifact, "content", root=tree)

    scorer = Scorer(Calibrator.parse("temperature"), {}, Score.parse("energy"), {}, 0.5)
    cosine, linear = classifier("cosine"), classifier("linear")
    before = [of(cosine), of(linear), of(scorer)]
    for file in ("heads/cosine.py", "calibrators/temperature.py"):
        with (tree / "methods" / file).open("a", encoding="utf-8") as source:
            source.write("# another line\n")
    after = [of(cosine), of(linear), of(scorer)]
    assert [b == a for b, a in zip(before, after, strict=True)] == [False, True, False]
    assert of(torch.zeros(1)) == "content"


def test_the_head_in_use_is_in_the_key_of_evaluate() -> None:
    step = next(step for step in plan(BASE) if step.stage == "evaluate")
    digests = dict.fromkeys(step.inputs, "same")
    found = {
        step_key(step, {**digests, "classifier": identity(classifier(head), "same")}, 0)
        for head in ("linear", "cosine")
    }
    assert len(found) == 2


def test_weights_are_in_the_key_by_content_not_by_path(tmp_path: Path) -> None:
    def key(path: Path) -> str:
        chosen = {"pretrained": {"checkpoint": str(path)}}
        step = plan(assign(BASE, {"pretrain.method": chosen}))[0]
        return step_key(step, dict.fromkeys(step.inputs, "same"), 0)

    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    one.write_bytes(b"w.safetensors")
    two.write_bytes(b"w.safetensors")
    first = key(one)
    assert key(two) == first
    two.unlink()
    two.write_bytes(b"others!")  # as long as before
    assert key(two) != first
    one.unlink()
    one.write_bytes(b"others!")
    assert key(one) == key(two)
    assert file_digest(str(tmp_path / "none.safetensors")) == "absent"


def test_torch_is_in_the_key_up_to_its_minor_version(monkeypatch: pytest.MonkeyPatch) -> None:
    step = plan(BASE)[0]
    digests = dict.fromkeys(step.inputs, "same")
    first = step_key(step, digests, 0)
    monkeypatch.setattr(torch, "__version__", torch.__version__ + ".post1")
    assert step_key(step, digests, 0) == first
    monkeypatch.setattr(torch, "__version__", "9.9.0")
    assert step_key(step, digests, 0) != first


# --- what code finds by name ------------------------------------------------------------------

WITHOUT = {"method", "settings", "artifacts", "keys", "evaluate_exported"}  # no stage's look-ups


def names_looked_up(path: Path) -> Iterator[str]:
    """Names of methods in a file's calls of ``lookup``, ``parse`` and ``_measure``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if called not in ("lookup", "parse", "_measure"):
            continue
        first = node.args[0]
        named = first.keys[0] if isinstance(first, ast.Dict) else first
        yield named.value if isinstance(named, ast.Constant) else ""  # "" for a variable


def files_that_look_up() -> list[Path]:
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.stem not in WITHOUT and any(True for _ in names_looked_up(path))
    ]


@pytest.mark.parametrize("path", files_that_look_up(), ids=lambda path: path.stem)
def test_a_file_declares_the_methods_that_it_finds_by_name(path: Path) -> None:
    name = ".".join(("trainables", *path.relative_to(PACKAGE).with_suffix("").parts))
    declared = importlib.import_module(name).LOOKED_UP
    listed = {each for names in declared.values() for each in names}
    called = set(names_looked_up(path))
    assert called - {""} <= listed
    if "" in called and path.parent.name != "stages":
        assert any(each.startswith(".") for each in listed)


def test_files_that_look_up_are_found() -> None:
    assert {"evaluate", "tuned", "ncm", "bags"} <= {path.stem for path in files_that_look_up()}


def test_every_stage_reaches_itself_and_its_chosen_methods() -> None:
    for step in plan(BASE):
        found = modules_of_stage(STAGES[step.stage], step.settings)
        assert step.module.__name__ in found
        assert {type(method).__module__ for method in methods_of(step.settings)} <= found


# --- what ran is in the key -------------------------------------------------------------------


def module_of(path: str) -> str | None:
    """The module of a source file of the package, otherwise ``None``."""
    if not path.startswith(f"{PACKAGE}/"):
        return None
    name = ".".join(Path(path).relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


@contextmanager
def watched(ran: set[str]) -> Iterator[None]:
    """Collect the files whose functions are called, in worker threads too."""

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            ran.add(frame.f_code.co_filename)

    sys.setprofile(note)
    threading.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


# settings are in keys by their values, data settings through the views' digests
NOT_IN_KEYS = {
    "trainables.experiment",
    "trainables.settings",
    "trainables.data.data_settings",
    "trainables.errors",
    "trainables.lazy",
}
SHORT = {
    "classify.training.epochs": 1,
    "update.training.epochs": 1,
    "score.threshold": {"known_recall": {"keep": 0.6}},
    "data.stream.novel": 40,
}
RICH = {
    "pretrain.method": "simclr",
    "pretrain.training.epochs": 1,
    "classify.head": "cosine",
    "classify.loss": "ldam",
    "classify.mixing": "mixup",
    "classify.sampler": {"deferred": {"base": "class_aware", "start": 0.0}},
    "classify.augmentation": "rand_augment",
    "rebalance.method": {"tuned": {"among": ["tau_norm", "crt"]}},
    "score.method": "mahalanobis",
    "score.calibrator": "temperature",
    "discover.clusterer": "kmeans",
    "update.mode": "full",
    "update.distiller": "dkd",
}


@pytest.mark.parametrize("changes", [{}, RICH], ids=["base", "rich"])
def test_code_that_a_stage_runs_is_in_its_key(changes: dict[str, object]) -> None:
    recipe = assign(load_experiment(ROOT / "experiments" / "digits.yaml"), {**SHORT, **changes})
    missing: dict[str, set[str]] = {}

    def executor(step: Step, inputs: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
        ran: set[str] = set()
        stage = step.module
        with watched(ran):
            outputs = stage.run(step.settings, **inputs, context=context)._asdict()
        code = modules_of_stage(stage, step.settings)
        for artifact in inputs.values():  # an input's key has the code of the methods it names
            fields = getattr(artifact, "_asdict", dict)().values()
            code |= {m for v in fields if isinstance(v, Method) for m in keys.modules_of(v)}
        found = {name for name in map(module_of, ran) if name}
        missing[step.stage] = found - keys.reached(code) - NOT_IN_KEYS
        assert stage.__name__ in found
        return outputs

    run(recipe, Context(), executor=executor)
    assert missing == {stage: set() for stage in STAGES}


# --- what keys hold, by value -------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", sorted(path.stem for path in (PACKAGE / "methods" / "metrics").glob("[a-z]*.py"))
)
def test_each_metric_is_in_the_key_of_evaluate_alone(tree: Path, file: str) -> None:
    assert changed(tree, f"methods/metrics/{file}.py") == {"evaluate"}


@pytest.mark.parametrize(
    ("setting", "value", "file", "stage"),
    [
        # methods that a method's file imports
        ("classify.loss", "lade", "losses/balanced_softmax", "classify"),
        ("classify.sampler", "deferred", "samplers/class_balanced", "classify"),
        ("rebalance.method", "disalign", "losses/cost_sensitive", "rebalance"),
        ("rebalance.method", "classifier_bound", "rebalancers/crt", "rebalance"),
        ("score.method", "relative_mahalanobis", "scores/mahalanobis", "score"),
        # methods that a method has as a setting
        ("classify.loss", {"deferred": {"base": "ldam"}}, "losses/ldam", "classify"),
        ("classify.loss", {"flooding": {"base": "focal"}}, "losses/focal", "classify"),
        (
            "classify.then",
            [{"epochs": 1, "lr": 0.1, "loss": "seesaw"}],
            "losses/seesaw",
            "classify",
        ),
        # corrections and heads that a method finds by name
        ("rebalance.method", "disalign", "heads/aligned", "rebalance"),
        ("rebalance.method", "bags", "heads/group_softmax", "rebalance"),
        ("rebalance.method", "tde", "heads/causal_norm", "rebalance"),
        ("rebalance.method", "ncm", "heads/nearest_mean", "rebalance"),
        ("rebalance.method", {"tuned": {"among": ["lws"]}}, "rebalancers/lws", "rebalance"),
    ],
    ids=lambda value: str(value).rpartition("/")[2],
)
def test_what_a_chosen_method_needs_is_in_the_key(
    tree: Path, setting: str, value: object, file: str, stage: str
) -> None:
    recipe = assign(BASE, {setting: value})
    assert stage in changed(tree, f"methods/{file}.py", recipe=recipe)
    assert stage not in changed(tree, f"methods/{file}.py")  # the base does not need it


class Holder(Settings):
    """Settings with a file."""

    path: Annotated[str, ContentOfFile()] = ""
    other: str = ""


class Nested(Settings):
    """Settings with files in settings, in a sequence of settings and in a method."""

    one: Holder = Holder()
    several: tuple[Holder, ...] = ()
    method: Pretrainer = Pretrainer.parse("none")


def test_files_count_by_content_wherever_settings_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nested(path: str) -> object:
        held = Holder(path=path, other=path)
        method = Pretrainer.parse({"pretrained": {"checkpoint": path}})
        return with_contents(Nested(one=held, several=(held, held), method=method))

    (tmp_path / "w.safetensors").write_bytes(b"w.safetensors")
    monkeypatch.chdir(tmp_path)
    digest = hashlib.sha256(b"w.safetensors").hexdigest()
    absolute = str(tmp_path / "w.safetensors")
    for path in ("w.safetensors", absolute):
        held = {"path": digest, "other": path}
        found = nested(path)
        assert isinstance(found, dict)
        assert (found["one"], found["several"]) == (held, [held, held])
        assert found["method"]["pretrained"]["checkpoint"] == digest
        assert path not in str(found["method"])
    (tmp_path / "w.safetensors").write_bytes(b"others!")
    assert nested("w.safetensors") != found
    assert with_contents(Holder()) == {"path": "", "other": ""}


def test_a_key_is_that_of_stage_settings_inputs_and_seed_and_of_nothing_else() -> None:
    recipe = assign(BASE, {"classify.training.epochs": 7})
    found: dict[str, str] = {}
    for step in plan(recipe):
        digests = dict.fromkeys(step.inputs, "same")
        found[step.stage] = step_key(step, digests, 0)
        others = [step_key(step, digests, 1)]
        others += [step_key(step, digests | {name: "other"}, 0) for name in step.inputs]
        assert len({found[step.stage], *others}) == 2 + len(step.inputs), step.stage
        assert step_key(step, digests | {"unrelated": "x"}, 0) == found[step.stage]
    base = {s.stage: step_key(s, dict.fromkeys(s.inputs, "same"), 0) for s in plan(BASE)}
    assert {stage for stage in base if base[stage] != found[stage]} == {"classify"}
    assert len(set(base.values())) == len(STAGES)


def test_precision_is_in_the_key_as_it_was_decided() -> None:
    step = plan(BASE)[1]
    digests = dict.fromkeys(step.inputs, "same")
    keys_of = {
        (precision, layout): step_key(
            plan(
                assign(
                    BASE,
                    {
                        "classify.training.precision": precision,
                        "classify.training.layout": layout,
                    },
                )
            )[1],
            digests,
            0,
        )
        for precision in ("float32", "bfloat16")
        for layout in ("contiguous", "channels_last")
    }
    assert len(set(keys_of.values())) == 4
