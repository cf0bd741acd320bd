"""Start-up time of ``--help``, of a configuration error, of a recipe's imports, of a prediction.

Goals: ``--help`` and a configuration error end within 0.3 s, without importing torch; the baseline
is an interpreter that imports only typer and ``rich.console``. A new process imports everything
that a recipe needs within 1.2 times ``import torch, timm``. ``orchestrator predict`` answers within
1.3 times the imports that the model needs (torch, and timm for a backbone of timm) plus half a
second. Both sides find compiled bytecode, as every start after the first does.

    python -m benchmarks.startup [--repeats 7]

Times are CPU time of the whole process, which other processes on a shared machine do not change.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import print_row

COMMAND = [sys.executable, "-m", "orchestrator"]
KEEP_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}  # Python treats an empty value as unset
CASES = {
    "help": ([*COMMAND, "--help"], 0),
    "help of a command": ([*COMMAND, "sweep", "--help"], 0),
    "refused setting": ([*COMMAND, "run", "--set", "classify.los=ldam"], 2),
}
MOST_SECONDS = 0.3
BARE = [sys.executable, "-c", "import typer, rich.console"]
RECIPE = [sys.executable, "-c", "import trainables.pipeline, torch; torch.ones(1)"]
IMPORTS = [sys.executable, "-c", "import torch, timm"]
TORCH = [sys.executable, "-c", "import torch"]
BACKBONES = {"predict": "fastnet", "predict, timm": "resnet18"}
IMPORTS_OF = {"predict": "torch", "predict, timm": "imports"}
SHARE, MORE_SECONDS = 1.3, 0.5


def cpu_seconds(command: list[str], status: int = 0) -> float:
    """Return the CPU seconds of a command.

    Raises:
        RuntimeError: The command ends with another status.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | KEEP_BYTECODE
    )
    if ended.returncode != status:
        raise RuntimeError(f"{command} ended with {ended.returncode}: {ended.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def register(backbone: str, root: Path) -> list[str]:
    """Register a version with a backbone, untrained, and return the command that asks it."""
    from PIL import Image

    from orchestrator.execution.execute import export_model
    from orchestrator.execution.store_executor import cached_views
    from orchestrator.registry.versions import Registry
    from orchestrator.tracking.mlflow_client import ensure_experiment
    from trainables.experiment import load_experiment
    from trainables.inference.card import describe_model

    sets = [f"pretrain.backbone={backbone}", "classify.training.epochs=0", "data.image_size=32"]
    recipe = load_experiment("experiments/digits.yaml", [*sets, "update.training.epochs=0"])
    root.mkdir()
    export_model(recipe.model_dump(mode="json"), {}, str(root), root / "model")
    describe_model(root / "model", cached_views(recipe.data))
    registry = Registry(f"sqlite:///{root}/mlflow.db")
    client = registry._client
    run = client.create_run(ensure_experiment(client, "benchmark", root)).info.run_id
    version = registry.register("longtail", root / "model", run, {}, {})
    registry.set_alias("longtail", "champion", version)
    Image.new("RGB", (32, 32)).save(root / "image.png")
    return [*COMMAND, "predict", str(root / "image.png"), "--storage", str(root)]


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asked = {
            name: (register(backbone, Path(folder) / backbone), 0)
            for name, backbone in BACKBONES.items()
        }
        return 0 if measure(CASES | asked, options.repeats) else 1


def measure(cases: dict[str, tuple[list[str], int]], repeats: int) -> bool:
    """Measure all sides in turn, print rows, and say whether all goals are reached."""
    imports = {"recipe": RECIPE, "imports": IMPORTS, "torch": TORCH, "bare": BARE}
    sides = cases | {name: (command, 0) for name, command in imports.items()}
    for command, status in sides.values():
        cpu_seconds(command, status)  # warm-up: writes bytecode and fills the page cache
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, (command, status) in sides.items():
            times[name].append(cpu_seconds(command, status))
    passed = True
    for name in CASES:
        both = {"ours": times[name], "0.3 s": [MOST_SECONDS], "typer + rich": times["bare"]}
        passed &= print_row(f"startup/{name}", "0.3 s", both, lower_is_better=True)
        print_row(f"startup/{name}", "typer + rich", both, lower_is_better=True)
    both = {"ours": times["recipe"], "import torch, timm": times["imports"]}
    passed &= print_row("startup/recipe", "import torch, timm", both, lower_is_better=True)
    for name, needed in IMPORTS_OF.items():
        limit = [SHARE * seconds + MORE_SECONDS for seconds in times[needed]]
        both = {"ours": times[name], "1.3 x imports + 0.5 s": limit}
        passed &= print_row(f"startup/{name}", "1.3 x imports + 0.5 s", both, lower_is_better=True)
    return passed


if __name__ == "__main__":
    sys.exit(main())
