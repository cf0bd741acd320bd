"""Folders of weights as timm writes them, of small networks, and of a hub's cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG: dict[str, Any] = {
    "input_size": [3, 48, 48],
    "interpolation": "bicubic",
    "crop_pct": 0.8,
    "mean": [0.3, 0.4, 0.5],
    "std": [0.2, 0.25, 0.3],
    "tag": "",
}


def write_weights(
    folder: Path, name: str = "test_efficientnet", seed: int = 1, /, **config: Any
) -> Path:
    """Write config.json and model.safetensors of a network with random weights.

    ``config`` changes `CONFIG`, which replaces the network's own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        options = {"img_size": 48} if "vit" in name else {}
        network = timm.create_model(name, num_classes=5, **options)
    network.pretrained_cfg = {**network.pretrained_cfg, **CONFIG, **config}
    save_for_hf(network, str(folder), safe_serialization=True)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Change ``config.json`` of a folder of weights; ``None`` takes a key away."""
    path = folder / "config.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def write_hub_cache(cache: Path, repository: str, folder: Path) -> Path:
    """Put a folder of weights into a cache of the hub, as its client does; return the copy."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, root / "snapshots" / COMMIT)
    return root / "snapshots" / COMMIT
