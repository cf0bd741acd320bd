"""Files of the Hugging Face Hub and of timm's servers: from the cache, or why they can't be had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from trainables.errors import ConfigError

ANSWER_SECONDS = 5.0  # after which a server counts as unreachable
SAFE_FILE = "model.safetensors"


def hub_folder(repository: str, file: str, backbone: str) -> Path:
    """Return the folder of this machine that holds a repository's file, its name the commit.

    Args:
        repository: ``OWNER/NAME``, or ``OWNER/NAME@REVISION``.
        file: Name of a file, which is downloaded unless it is there.
        backbone: Setting that asks for it, for messages.

    Raises:
        ConfigError: The file is not on this machine and can't be had; see `unreachable`.
    """
    found = _hub_file(repository, file, backbone)
    if found is None:
        raise ConfigError(f"backbone '{backbone}': the repository has no {file}")
    return found.parent


def hub_file(repository: str, names: Sequence[str], backbone: str) -> Path:
    """Return the first file of these names that a repository has, downloaded unless it is there.

    Raises:
        ConfigError: There is none, or the hub can't be reached.
    """
    cached = (_cached(repository, name) for name in names)
    found = next((path for path in cached if path is not None), None)
    for name in names if found is None else ():
        found = _hub_file(repository, name, backbone)
        if found is not None:
            break
    if found is None:
        raise ConfigError(
            f"backbone '{backbone}': the repository has no weights; looked for {', '.join(names)}"
        )
    return found


def _cached(repository: str, file: str) -> Path | None:
    """Return a file of the hub's cache on this machine."""
    import huggingface_hub as hub

    name, _, revision = repository.partition("@")
    cached = hub.try_to_load_from_cache(name, file, revision=revision or None)
    return Path(cached) if isinstance(cached, str) else None


def _hub_file(repository: str, file: str, backbone: str) -> Path | None:
    """Return a file of the cache or of the hub; ``None`` if the repository has none of the name."""
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = _cached(repository, file)
    if cached is not None:
        return cached
    name, _, revision = repository.partition("@")
    require_on_hub(backbone, repository, file)
    try:
        return Path(hub.hf_hub_download(name, file, revision=revision or None))
    except LocalEntryNotFoundError as error:
        raise unreachable(backbone, "huggingface.co", hub.constants.HF_HUB_CACHE, error) from None
    except EntryNotFoundError:
        return None


def require_on_hub(backbone: str, repository: str, file: str) -> None:
    """Refuse a file of the Hugging Face Hub that is neither on this machine nor to be had."""
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError

    if _cached(repository, file) is not None:
        return
    name, _, revision = repository.partition("@")
    url = hub.hf_hub_url(name, file, revision=revision or None)
    try:  # once: a download of its own tries again for minutes
        hub.get_hf_file_metadata(url, timeout=ANSWER_SECONDS)
    except EntryNotFoundError:
        return  # the server answers; there may be other names of the file
    except Exception as error:  # of the client's HTTP library, which changed with its versions
        host = url.split("/")[2]
        raise unreachable(backbone, host, hub.constants.HF_HUB_CACHE, error) from None


def require_url(backbone: str, url: str) -> None:
    """Refuse a file that is neither in torch's cache nor to be had."""
    from urllib.request import Request, urlopen

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if (folder / url.rpartition("/")[2]).is_file():
        return
    try:
        urlopen(Request(url, method="HEAD"), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise unreachable(backbone, url.split("/")[2], str(folder), error) from None


def unreachable(backbone: str, host: str, folder: str, error: Exception) -> ConfigError:
    """Return the error on weights that cannot be had, with the two remedies."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConfigError(
        f"backbone '{backbone}': its pretrained weights are not on this machine, and {host} does "
        f"not give them ({reason[:120]}); copy {folder} from a machine that has them, or set "
        "pretrain.backbone=local-dir:PATH, or an architecture's name with "
        "pretrain.method.pretrained.checkpoint=FILE"
    )
