"""The registered version as MLflow sees it: loaded without pickle, served, same answers."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchestrator.registry.packaging import as_text, is_model, package, requirements
from orchestrator.registry.versions import Registry
from tests.helpers.exported import exported, new_run, views_of
from tests.helpers.pictures import bomb
from trainables.inference.model import load_model
from trainables.inference.uploads import UploadError

pytestmark = [
    # MLflow's own use of SQLAlchemy and pandas.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method"),
]

COLUMNS = ["class_index", "class_name", "probability", "confidence", "known"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("packed") / "model"
    package(exported(), target)
    return target


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("served")
    uri = f"sqlite:///{root}/mlflow.db"
    registry = Registry(uri)
    version = registry.register("longtail", exported(), new_run(uri, root), {"m": 1.0}, {})
    registry.set_alias("longtail", "champion", version)
    return uri


def pictures() -> np.ndarray:
    view = views_of().held_out_known
    return view.images[view.indices[:6]]


def test_nothing_is_pickled_and_no_host_is_named(packed: Path) -> None:
    files = [path for path in packed.rglob("*") if path.is_file()]
    allowed = {".safetensors", ".json", ".yaml", ".py", ".txt", "", ".typed"}
    assert {path.suffix for path in files} <= allowed
    assert [path.name for path in files if path.suffix == ""] == ["MLmodel"]
    environment = ("requirements.txt", "conda.yaml", "python_env.yaml", "MLmodel")
    host = re.compile(r"://|\b[\w-]+\.(?:org|com|io|net|dev)\b|index-url|find-links", re.I)
    for name in environment:
        assert host.search((packed / name).read_text("utf-8")) is None, name
    assert not (packed / "uv.lock").exists()


def test_files_of_the_working_directory_stay_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uv.lock").write_text("version = 1\n# https://user:secret@index.example\n")
    (tmp_path / "pyproject.toml").write_text("[project]\nname='x'\nversion='1'\n")
    monkeypatch.chdir(tmp_path)
    package(exported(), tmp_path / "out")
    assert not (tmp_path / "out" / "uv.lock").exists()
    assert not (tmp_path / "out" / "pyproject.toml").exists()


def test_requirements_are_pinned_without_local_labels() -> None:
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in requirements())
    assert any(line.startswith("torch==") for line in requirements())


def test_signature_and_example(packed: Path) -> None:
    from mlflow.models import Model

    described = Model.load(str(packed))
    assert described.signature.inputs.input_names() == ["image"]
    assert described.signature.outputs.input_names() == COLUMNS
    example = json.loads((packed / "serving_input_example.json").read_text("utf-8"))
    text, numbers = (row[0] for row in example["dataframe_split"]["data"])
    assert isinstance(text, str)
    assert np.shape(numbers) == (2, 2, 3)


def test_only_exported_models_are_packed(tmp_path: Path) -> None:
    assert is_model(exported())
    (tmp_path / "model.json").write_text("{}", encoding="utf-8")
    assert not is_model(tmp_path)


SCRIPT = """
import json, sys, mlflow, numpy as np, pandas as pd
images = np.load(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/longtail@champion")
found = model.predict(pd.DataFrame({"image": [image.tolist() for image in images]}))
import trainables
print(json.dumps({"code": trainables.__file__, "rows": found.to_dict("records")}))
"""


def environment(uri: str) -> dict[str, str]:
    bin_folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }


def expected() -> list[dict[str, object]]:
    found = load_model(exported()).predict(pictures())
    return pd.DataFrame(found._asdict()).to_dict("records")


def assert_same(rows: list[dict[str, object]], wanted: list[dict[str, object]]) -> None:
    assert len(rows) == len(wanted)
    for row, want in zip(rows, wanted, strict=True):
        assert list(row) == COLUMNS
        for name in ("class_index", "class_name", "known"):
            assert row[name] == want[name]
        for name in ("probability", "confidence"):
            assert row[name] == pytest.approx(float(want[name]), abs=1e-6)


@pytest.mark.slow
def test_alias_loads_elsewhere_without_pickle_and_answers_the_same(
    registered: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", pictures())
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT, str(tmp_path / "images.npy")],
        cwd=tmp_path, env=environment(registered), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert_same(answer["rows"], expected())
    # the version brings its code along: another checkout cannot change its answers
    assert "/artifacts/model-" in answer["code"]


@pytest.fixture(scope="module")
def server(registered: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = ["mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", "models:/longtail@champion", "-h", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=log.parent, env=environment(registered), stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while not _answers(f"{address}/ping"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # its own session: the server and its worker
        process.wait(timeout=60)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def ask(address: str, body: object) -> tuple[int, dict]:
    request = urllib.request.Request(
        f"{address}/invocations",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def texts() -> list[str]:
    return [as_text(image) for image in pictures()]


BODIES = {
    "records of text": lambda: {"dataframe_records": [{"image": text} for text in texts()]},
    "split of numbers": lambda: {
        "dataframe_split": {"columns": ["image"], "data": [[p] for p in pictures().tolist()]}
    },
    "text and numbers": lambda: {
        "dataframe_records": [
            {"image": text if n % 2 else numbers}
            for n, (text, numbers) in enumerate(zip(texts(), pictures().tolist(), strict=True))
        ]
    },
    "inputs of text": lambda: {"inputs": {"image": texts()}},
    "inputs of numbers": lambda: {"inputs": pictures().tolist()},
    "instances": lambda: {"instances": [{"image": text} for text in texts()]},
}


@pytest.mark.slow
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_server_answers_as_in_process(server: str, body) -> None:
    status, answer = ask(server, body())
    assert status == 200, answer
    assert_same(answer["predictions"], expected())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("bm8gaW1hZ2U=", "image 0: the file is not an image of an accepted format"),
        ("???", "image 0: the text is not valid base64"),
        ([[[0, 0, 300]]], "image 0: expected numbers from 0 to 255"),
        (None, "image 0: expected an image file"),
    ],
)
def test_server_refuses_what_is_no_image_with_status_400(server: str, image, message) -> None:
    status, answer = ask(server, {"dataframe_records": [{"image": image}]})
    assert status == 400
    assert message in answer["message"]


@pytest.mark.slow
def test_server_refuses_too_many_images(server: str) -> None:
    body = {"dataframe_records": [{"image": [[[0, 0, 0]]]}] * 513}
    status, answer = ask(server, body)
    assert status == 400
    assert "a request may hold 512 images; received 513" in answer["message"]
    assert _answers(f"{server}/ping")


@pytest.mark.slow
def test_server_refuses_too_many_pixels_by_their_sum(server: str) -> None:
    image = base64.b64encode(bomb(5000, 5000)).decode()
    status, answer = ask(server, {"dataframe_records": [{"image": image}] * 100})
    assert status == 400
    assert "a request may hold 200,000,000" in answer["message"]
    # MLflow puts the head of the request's table in front
    assert "Traceback" not in answer["message"]
    assert _answers(f"{server}/ping")


def test_table_and_dictionary_forms() -> None:
    from orchestrator.registry.served_model import values_of

    image = [[[1, 2, 3]]]
    assert values_of(pd.DataFrame({"image": ["a", "b"]})) == ["a", "b"]
    assert values_of({"image": ["a", "b"]}) == ["a", "b"]
    assert values_of({"image": "a"}) == ["a"]
    assert values_of({"image": image}) == [image]
    assert values_of({"image": [image, image]}) == [image, image]
    assert values_of([image]) == [image]
    assert values_of(image) == [image]
    assert values_of(pd.DataFrame({"image": [np.array(["a", "b"])]})) == ["a", "b"]
    assert values_of(pd.DataFrame({"image": [image, "a"]})) == [image, "a"]
    assert len(values_of(np.zeros((5, 2, 2, 3), np.uint8))) == 5
    assert values_of(pd.DataFrame({"image": [None]})) == [None]
    assert values_of(pd.DataFrame({"image": []})) == []
    for wrong in (pd.DataFrame({"picture": ["a"]}), {"picture": ["a"]}):
        with pytest.raises(UploadError, match="the column 'image' is missing; received picture"):
            values_of(wrong)
