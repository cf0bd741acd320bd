"""Files of tensors: what is read, and that nothing in them is run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from trainables.errors import ConfigError
from trainables.weights.tensor_files import read_tensors

STATE = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}


class Runs:
    """Would write a file if it was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "run"))


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        {"model": STATE, "optimizer": {"lr": 0.1}},
        {"state_dict_ema": STATE, "state_dict": {"a": torch.zeros(3)}},
        {"teacher": STATE},
    ],
)
def test_tensors_are_found_where_programs_keep_them(
    content: dict[str, Any], ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"weights{ending}"
    torch.save(content, path)
    found = read_tensors(path, "checkpoint")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    assert torch.equal(read_tensors(tmp_path / "a.safetensors", "checkpoint")["a"], STATE["a"])


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "mark"
    torch.save({"a": torch.ones(1), "b": Runs(mark)}, path)
    with pytest.raises(ConfigError, match="more than tensors, which could run code") as caught:
        read_tensors(path, "pretrain.method.checkpoint")
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"teacher": STATE, "student": STATE}, "several sets of tensors: teacher, student"),
        ([1, 2], "holds no tensors by name"),
        ({"epoch": 3}, "holds no tensors by name"),
    ],
)
def test_other_content_is_one_line(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=message):
        read_tensors(tmp_path / "weights.pth", "checkpoint")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken", b"\x80\x02."])
def test_a_damaged_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=r"weights\.pth is ") as caught:
        read_tensors(tmp_path / "weights.pth", "checkpoint")
    assert "\n" not in str(caught.value)
