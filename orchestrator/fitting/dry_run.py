"""What a fit would do: the look at the photos, what is stored already, time, and disk."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.fitting.photo_folder import Found, look_at_folder
from orchestrator.fitting.progress_lines import duration
from orchestrator.fitting.screen import photos_lines
from orchestrator.fitting.threshold_images import require_threshold
from orchestrator.fitting.training.untested import with_untested
from orchestrator.options import EXPORTED, LEDGER, local_folder
from orchestrator.registry.version_lookup import restore_parts
from trainables.data.shots.look import CONTENTS
from trainables.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.fitting.fit_options import FitOptions
    from orchestrator.fitting.progress_lines import Lines
    from orchestrator.fitting.training.training_plan import TrainingPlan
    from trainables.experiment import Experiment

PROBED, ROUNDS = 8, 3  # images at a time
FLOAT_BYTES, COLORS = 4, 3


def show_plan(options: FitOptions, lines: Lines, folder: Path) -> None:
    """Show what a fit would do; nothing is written, not even the parts of new images.

    Args:
        options: What was asked for.
        lines: Where it is shown.
        folder: Folder of the model.

    Raises:
        ConfigError: The photos or the backbone can't be used.
    """
    found = _look(options, folder)
    from orchestrator.fitting.backbone import backbone_at_hand
    from orchestrator.fitting.recipe import recipe_of_photos
    from orchestrator.fitting.training.deeper import NOTHING_TO_TUNE
    from orchestrator.fitting.training.training_plan import plan_deeper
    from orchestrator.fitting.trying.variants import BASE, list_variants
    from trainables.lazy import load_deferred

    load_deferred()
    import torch

    device, why = "cuda" if torch.cuda.is_available() else "cpu", list[str]()
    backbone = backbone_at_hand(options.backbone, gpu=device == "cuda", say=why.append)
    level = options.false_alarm if backbone is None else None
    for line in photos_lines(with_untested(found.photos, found.images, trained_at=level)):
        lines.say(*line)
    for text in why:
        lines.say("backbone", text)
    if backbone is None:
        if options.deeper:
            raise ConfigError(NOTHING_TO_TUNE)
        _show_training(options, lines, found, device)
        return
    require_threshold(found.images, options)
    recipe = recipe_of_photos(options, backbone, found.source, BASE)
    size = int(recipe.data.image_size or 0)
    notice = f"; {backbone.notice}" if backbone.notice else ""
    lines.say("backbone", f"{backbone.title}, {size} px, frozen{notice}")
    new = count_new(found, folder)
    seconds, width = probe(recipe, device)
    stored = f" ({len(found.images.photos) - new:,} are stored)" if folder.is_dir() else ""
    lines.say(
        "would run",
        f"features of {new:,} images{stored}: about {duration(new * seconds)} on this machine",
    )
    lines.say(
        "", f"{len(list_variants())} variants of head and balance, in closed form: no training"
    )
    if options.deeper:
        _show_deeper(options, lines, plan_deeper(found.images, options, backbone), found, device)
    lines.say("", f"a version of the model '{options.model_name}', judged by the gates")
    images = len(found.images.photos)
    kept = images * (width * FLOAT_BYTES + size * size * COLORS)
    lines.say("disk", f"about {max(kept / 1e6, 1):,.0f} MB below {local_folder(options.storage)}")


def _look(options: FitOptions, folder: Path) -> Found:
    """Look at the photos with a copy of the model's ledger."""
    from orchestrator.registry.shared_images import check_shared_class

    with tempfile.TemporaryDirectory() as draft:
        for name in (LEDGER, CONTENTS):
            if (folder / name).is_file():
                shutil.copy(folder / name, draft)
        restore_parts(options.storage, options.model_name, Path(draft) / LEDGER)
        found = look_at_folder(
            options.photos, Path(draft), groups=options.groups or None, labels=options.labels
        )
    check_shared_class(options.storage, options.model_name, found.images.photos)
    return found


def _show_training(options: FitOptions, lines: Lines, found: Found, device: str) -> None:
    """Show what a fit trains from scratch."""
    from orchestrator.fitting.backbone import SMALL_NETWORK
    from orchestrator.fitting.training.pace import epochs_in, in_epochs
    from orchestrator.fitting.training.training_plan import (
        plan_from_scratch,
        seconds_per_epoch,
        training_images,
    )

    plan = plan_from_scratch(found.images, options)
    each = seconds_per_epoch(plan, found.source, device)
    epochs = epochs_in(options.seconds, each, most=plan.epochs)
    size = int(plan.recipe(found.source, epochs).data.image_size or 0)
    lines.say("backbone", f"{SMALL_NETWORK}, {size} px")
    lines.say("would run", f"{in_epochs(epochs)} of {training_images(plan.images):,} images")
    if plan.rehearses:
        lines.say("", f"as many without {', '.join(plan.new)}, for the rehearsal")
    lines.say("", f"about {duration(epochs * each)} on this machine")
    lines.say("", f"a version of the model '{options.model_name}', judged by the gates")
    kept = len(found.images.photos) * size**2 * COLORS
    lines.say("disk", f"about {max(kept / 1e6, 1):,.0f} MB below {local_folder(options.storage)}")


def _show_deeper(
    options: FitOptions, lines: Lines, plan: TrainingPlan, found: Found, device: str
) -> None:
    """Show what the fine-tuning of the backbone trains."""
    from orchestrator.fitting.training.pace import epochs_in, in_epochs
    from orchestrator.fitting.training.training_plan import seconds_per_epoch, training_images

    each = seconds_per_epoch(plan, found.source, device)
    epochs = epochs_in(options.seconds, each, most=plan.epochs)
    images = training_images(plan.images)
    lines.say("", f"{in_epochs(epochs)} of the last blocks of the backbone, on {images:,} images")
    if plan.rehearses:
        lines.say("", f"if that is better, as many without {', '.join(plan.new)}, to rehearse")
    lines.say("", f"at most {duration(epochs * each)} more on this machine")


def count_new(found: Found, folder: Path) -> int:
    """Return how many photos no earlier fit of this model has seen."""
    from trainables.inference.outcomes import OUTCOMES_FILE, load_outcomes

    table = folder / EXPORTED / OUTCOMES_FILE
    if not table.is_file():
        return len(found.images.photos)
    seen = set(load_outcomes(table).images["digest"])
    return sum(photo.bytes_digest not in seen for photo in found.images.photos)


def probe(recipe: Experiment, device: str) -> tuple[float, int]:
    """Measure a recipe's backbone: seconds per image, and the width of its features."""
    import torch

    from trainables.models.backbone import build_trunk
    from trainables.stages.pretrain import trunk_architecture
    from trainables.weights.pretrained import find_weights

    size = int(recipe.data.image_size or 0)
    weights = find_weights(recipe.pretrain.backbone, recipe.pretrain.method, size)
    trunk = build_trunk(trunk_architecture(recipe.pretrain, weights), size, weights=weights)
    trunk = trunk.to(device).eval()
    images = torch.zeros(PROBED, COLORS, size, size, device=device)
    times = []
    with torch.no_grad():
        for _ in range(ROUNDS):
            start = time.perf_counter()
            features = trunk(images)
            features.sum().item()  # waits for a GPU
            times.append((time.perf_counter() - start) / PROBED)
    return min(times), int(features.shape[1])
