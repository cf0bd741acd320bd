from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.registry.versions import Registry, folder_digest
from orchestrator.tracking.mlflow_client import connect, ensure_experiment
from tests.helpers.exported import exported

pytestmark = [
    # MLflow's own use of SQLAlchemy and pandas.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method"),
]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("registry")
    address = f"sqlite:///{root}/mlflow.db"
    ensure_experiment(connect(address), "models", root)
    return address


@pytest.fixture
def run_id(uri: str) -> str:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("models").experiment_id
    return str(client.create_run(experiment).info.run_id)


def model_folder(path: Path, weights: bytes = b"w") -> Path:
    (path / "trunk").mkdir(parents=True)
    (path / "trunk" / "tensors.safetensors").write_bytes(weights)
    (path / "model.json").write_text("{}")
    return path


def test_version_comes_back_as_it_was_stored(uri: str, run_id: str, tmp_path: Path) -> None:
    registry = Registry(uri)
    folder = model_folder(tmp_path / "model")
    metrics = {"evaluate/accuracy/few": 0.5, "evaluate/auroc": 0.9}
    version = registry.register("stored", folder, run_id, metrics=metrics, tags={"sweep": "x"})
    assert version == "1"
    assert registry.metrics("stored", version) == metrics
    assert registry.version_tags("stored", version)["sweep"] == "x"
    assert registry.run_id("stored", version) == run_id
    target = registry.download("stored", version, tmp_path / "deep" / "fetched")
    assert (target / "trunk" / "tensors.safetensors").read_bytes() == b"w"
    assert (target / "model.json").read_text() == "{}"
    assert list((tmp_path / "deep").iterdir()) == [target]


def test_metrics_of_before_are_known_by_the_names_of_today(
    uri: str, run_id: str, tmp_path: Path
) -> None:
    registry = Registry(uri)
    folder = model_folder(tmp_path / "model", b"before")
    metrics = {"evaluate/update/without": 0.5, "evaluate/update/without/low": 0.25}
    version = registry.register("before", folder, run_id, metrics=metrics, tags={})
    assert registry.metrics("before", version) == {
        "evaluate/update/accuracy_before": 0.5,
        "evaluate/update/accuracy_before/low": 0.25,
    }


def test_same_folder_of_a_run_is_registered_once(uri: str, run_id: str, tmp_path: Path) -> None:
    registry = Registry(uri)
    folder = model_folder(tmp_path / "a")
    first = registry.register("once", folder, run_id, {}, {})
    assert registry.register("once", folder, run_id, {}, {}) == first
    other = model_folder(tmp_path / "b", b"other")
    assert registry.register("once", other, run_id, {"a": 1.0}, {}) == "2"
    assert registry.versions("once") == ["1", "2"]
    assert registry.metrics("once", "1") == {}
    assert registry.metrics("once", "2") == {"a": 1.0}


def test_aliases_move_and_go(uri: str, run_id: str, tmp_path: Path) -> None:
    registry = Registry(uri)
    for name in ("a", "b"):
        folder = model_folder(tmp_path / name, name.encode())
        registry.register("named", folder, run_id, metrics={}, tags={})
    assert registry.alias("named", "champion") is None
    registry.set_alias("named", "champion", "1")
    registry.set_alias("named", "champion", "2")
    registry.set_alias("named", "previous", "1")
    assert registry.alias("named", "champion") == "2"
    assert registry.aliases("named") == {"champion": "2", "previous": "1"}
    target = registry.download("named", "previous", tmp_path / "fetched")
    assert (target / "trunk" / "tensors.safetensors").read_bytes() == b"a"
    registry.download("named", "champion", tmp_path / "fetched")
    assert (target / "trunk" / "tensors.safetensors").read_bytes() == b"b"
    registry.delete_alias("named", "previous")
    registry.delete_alias("named", "previous")
    assert registry.alias("named", "previous") is None
    registry.set_version_tags("named", "2", {"gate": "passed"})
    assert registry.version_tags("named", "2")["gate"] == "passed"


def test_unknown_names_are_said_with_what_there_is(uri: str, run_id: str, tmp_path: Path) -> None:
    registry = Registry(uri)
    assert registry.alias("nobody", "champion") is None
    assert registry.versions("nobody") == []
    assert registry.aliases("nobody") == {}
    registry.register("some", model_folder(tmp_path / "m"), run_id, {}, {})
    registry.set_alias("some", "challenger", "1")
    with pytest.raises(LookupError, match="no alias 'champion'; its aliases: challenger"):
        registry.download("some", "champion", tmp_path / "out")
    with pytest.raises(LookupError, match="no version 7; its versions: 1"):
        registry.download("some", "7", tmp_path / "out")
    with pytest.raises(LookupError, match=r"challenger; did you mean 'challenger'"):
        registry.download("some", "challanger", tmp_path / "out")
    with pytest.raises(LookupError, match=r"no registered model 'sone'; .*'some'"):
        registry.download("sone", "champion", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="has no files"):
        registry.register("some", empty, run_id, {}, {})


def test_model_uri_of_mlflow_resolves(uri: str, run_id: str, tmp_path: Path) -> None:
    registry = Registry(uri)
    registry.register("uri", model_folder(tmp_path / "m"), run_id, {}, {})
    registry.set_alias("uri", "champion", "1")
    found = MlflowClient(uri, uri).get_model_version_by_alias("uri", "champion")
    assert found.source.startswith("file://")
    assert found.run_id == run_id


def test_exported_model_is_wrapped_and_comes_back_bare(
    uri: str, run_id: str, tmp_path: Path
) -> None:
    registry = Registry(uri)
    version = registry.register("wrapped", exported(), run_id, {"m": 0.5}, {"who": "me"})
    assert registry.metrics("wrapped", version) == {"m": 0.5}
    assert registry.version_tags("wrapped", version)["orchestrator.layout"] == "mlflow"
    source = MlflowClient(uri, uri).get_model_version("wrapped", version).source
    assert (Path(source.removeprefix("file://")) / "MLmodel").is_file()
    target = registry.download("wrapped", version, tmp_path / "fetched")
    assert folder_digest(target) == folder_digest(exported())
    card = registry.card("wrapped", version)
    assert card is not None
    assert card.num_known == 7
    assert registry.register("wrapped", exported(), run_id, {}, {}) == version


def test_plain_folder_has_no_card(uri: str, run_id: str, tmp_path: Path) -> None:
    registry = Registry(uri)
    registry.register("plain", model_folder(tmp_path / "m"), run_id, {}, {})
    assert registry.card("plain", "1") is None


def test_digest_tells_names_and_contents_apart(tmp_path: Path) -> None:
    base = folder_digest(model_folder(tmp_path / "a"))
    assert folder_digest(model_folder(tmp_path / "b")) == base
    assert folder_digest(model_folder(tmp_path / "c", b"x")) != base
    (tmp_path / "b" / "model.json").rename(tmp_path / "b" / "other.json")
    assert folder_digest(tmp_path / "b") != base


def test_a_run_is_found_by_its_tags(uri: str) -> None:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("models").experiment_id
    tags = {"orchestrator.sweep": "july", "orchestrator.trial_id": "t1"}
    made = client.create_run(experiment, tags=tags).info.run_id
    assert Registry(uri).find_run(tags) == made
    assert Registry(uri).find_run({**tags, "orchestrator.trial_id": "t2"}) is None
