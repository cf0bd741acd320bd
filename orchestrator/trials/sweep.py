"""The main job: what can be refused early, the lock, Ray, the job itself, and its exit status."""

from __future__ import annotations

import shlex
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.choice.finalist_choice import is_complete
from orchestrator.execution.ctrl_c import INTERRUPTED
from orchestrator.locking.sweep_lock import interrupt, lock_sweep
from orchestrator.options import LEDGER, SweepOptions, command, folder_of_model, name_of_source
from orchestrator.trials.failures import report
from orchestrator.trials.sweep_start import folder_of, objectives_of, open_record

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.records import SweepRecord
    from trainables.data.data_settings import Data
    from trainables.data.shots.written_parts import WrittenParts
    from trainables.experiment import Experiment

# Imported while Ray starts; what imports parts of Ray comes last.
EARLY = (
    "torch",
    "optuna",
    "orchestrator.execution.execute",
    "orchestrator.search.searcher",
    "orchestrator.search.schedulers",
    "orchestrator.trials.callback",
    "orchestrator.trials.tuning",
)
NOT_WRITTEN = "images that are added later may move others: no ledger of parts is kept in"
FAILED = 1  # exit status of a sweep without a finalist, a verdict or a report


def run_sweep(options: SweepOptions, console: Console | None = None) -> SweepRecord:
    """Run a sweep from recipe to promoted model version, or go on with one of the same name.

    Raises:
        ConfigError: One line for what cannot work, before anything starts; or another driver took
            the sweep over while this one was silent.
        SystemExit: Ctrl-C (status 130), after all was saved and the way to resume was shown; or no
            finalist completed, or promotion or report failed (status 1), after one line that says
            why.
        InfrastructureError: Disk, host or Ray failed; what was recorded before is kept.
    """
    from orchestrator.registry.gate_settings import choose_gates
    from orchestrator.report.terminal import console as terminal_console
    from trainables.experiment import load_experiment

    console = console or terminal_console()
    choose_gates(options.gates)  # a wrong one is refused before anything starts
    base = load_experiment(options.experiment, options.sets)
    if options.promote and not options.model:
        options = options.model_copy(update={"model": name_of_source(base.data.source)})
    record = open_record(options, base)  # refused before anything is written
    early = None
    if not is_complete(record, objectives_of(options, record), options):
        early = _check_early(options, base, record, console)
    options = options.model_copy(update={"name": record.name})
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    with lock_sweep(folder_of(options, record.name), say, interrupt):
        return _run_locked(options, base, console, early)


def judged_with(record: SweepRecord, options: SweepOptions) -> list[str]:
    """Return the command that judges a complete sweep's version by gates that are set anew."""
    promotion = record.promotion
    if not options.gates or promotion is None or promotion.version is None:
        return []
    gates = "".join(f" --gate {shlex.quote(text)}" for text in options.gates)
    again = command(
        f"promote version {promotion.version}{gates}",
        storage=options.storage,
        model=promotion.model,
    )
    return [f"version {promotion.version} was judged before; {again}   judges it with these gates"]


def _check_early(
    options: SweepOptions, base: Experiment, record: SweepRecord, console: Console
) -> tuple[Experiment, str]:
    """Refuse what cannot work before the sweep's folder is written: sampler, weights, data.

    Returns:
        The base recipe of the laboratory, and the source of the model that serves; see
        `trainables.data.shots.written_parts`.
    """
    from orchestrator.registry.shared_images import check_shared_class
    from orchestrator.trials.data_look import look_before_sweep, say, say_faults
    from orchestrator.trials.service_recipe import check_service, ends_in_service
    from orchestrator.trials.sweep_start import open_ladder, open_sampler
    from trainables.data.look import look
    from trainables.pipeline import check_trunk

    open_ladder(options, base, record)
    open_sampler(options, base, record)
    check_trunk(base)
    if not options.promote or not ends_in_service(base):
        look_before_sweep(base.data, console)
        return base, ""
    say_faults(look(base.data, decode=True), console)
    parts = _written_parts(options, base.data)
    for line in parts.lines:
        say(console, line)
    check_shared_class(options.storage, options.model, parts.photos)
    found = look(parts.laboratory, decode=True)
    say(console, found._replace(source=base.data.source).summary())
    found.refuse()
    laboratory = base.model_copy(update={"data": parts.laboratory})
    for note in check_service(laboratory, parts.served).notes:
        say(console, f"the base recipe, when it serves: {note}")
    return laboratory, parts.served


def _written_parts(options: SweepOptions, data: Data) -> WrittenParts:
    """Decide which of one's own images train and which test, and write it down."""
    from orchestrator.registry.version_lookup import restore_parts
    from trainables.data.shots.written_parts import WrittenParts, write_parts

    if "://" in options.storage.removeprefix("file://"):
        return WrittenParts(data, "", [f"{NOT_WRITTEN} {options.storage}"])
    restored = restore_parts(options.storage, options.model)
    parts = write_parts(data, folder_of_model(options.storage, options.model) / LEDGER)
    return parts._replace(lines=[*([f"parts: {restored}"] if restored else []), *parts.lines])


def _run_locked(
    options: SweepOptions, base: Experiment, console: Console, early: tuple[Experiment, str] | None
) -> SweepRecord:
    """Run the sweep, or what is left of it, as its only driver."""
    from orchestrator.execution.infrastructure import infrastructure_fault
    from orchestrator.execution.ray_watch import RayWatch, leave_ray
    from orchestrator.search.recipe_paths import content_of_paths
    from orchestrator.trials.data_look import check_same_images
    from orchestrator.trials.sweep_job import SweepJob
    from orchestrator.trials.sweep_start import open_sampler

    started = time.monotonic()
    record = open_record(options, base)  # as the driver before this one left it
    if is_complete(record, objectives_of(options, record), options):
        text = f"sweep '{record.name}' is complete; more --trials go on with it"
        console.print(text, markup=False)
        for line in judged_with(record, options):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        report(record, folder_of(options, record.name), console)
        return _end(record, options, console)
    laboratory, served = early or _check_early(options, base, record, console)
    check_same_images(record, laboratory.data)
    record.content, record.served_source = content_of_paths(base), served
    sampler = open_sampler(options, base, record)  # written to the record that this driver keeps
    for line in sampler.notes(options.trials):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    _start_ray(options, console)
    with RayWatch() as ray:
        job = SweepJob(options, laboratory, record, console, sampler, ray)
        before, fault = job.record.seconds, None
        try:
            job.run()
        except KeyboardInterrupt:
            job.done = False
        except Exception as error:
            job.done, job.status = False, "FAILED"
            fault = infrastructure_fault(error)
            if fault is None and not ray.lost():
                raise
        finally:
            if ray.lost():
                fault = ray.fault
                leave_ray()
            job.record.seconds = before + time.monotonic() - started
            fault = job.close(fault) or fault
    return _end(record, options, console, done=job.done, fault=fault)


def _end(
    record: SweepRecord,
    options: SweepOptions,
    console: Console,
    *,
    done: bool = True,
    fault: str | None = None,
) -> SweepRecord:
    """Show the next steps, and return the record of a sweep that did all that was asked.

    Raises:
        SystemExit: Ctrl-C, no finalist, no verdict, or no report.
        InfrastructureError: Disk, host or Ray failed.
    """
    from orchestrator.execution.infrastructure import InfrastructureError
    from orchestrator.trials.progress import say_next_steps, what_failed
    from trainables.text.redaction import print_error

    folder = folder_of(options, record.name)
    say_next_steps(record, folder, console, storage=options.storage, done=done)
    if fault is not None:
        raise InfrastructureError(
            f"{fault}; the same command with --name {record.name} goes on when that is mended"
        )
    if not done:
        sys.exit(INTERRUPTED)
    failed = what_failed(record)
    if failed is not None:
        print_error(failed)
        sys.exit(FAILED)
    return record


def _start_ray(options: SweepOptions, console: Console) -> None:
    """Start or join Ray, and import what a search needs while its processes come up."""
    import ray  # noqa: F401  (before the thread: nothing of Ray is imported by two at a time)

    from orchestrator.execution.cluster import Importing, await_machines, connect_ray
    from orchestrator.execution.shared_storage import check_storage_is_shared
    from orchestrator.options import local_folder
    from trainables.lazy import load_deferred

    importing = Importing(EARLY)
    connect_ray(options.address, options.train_workers)
    if options.address is None:
        await_machines(console.print)
    importing.wait()
    local = "://" not in options.storage.removeprefix("file://")
    check_storage_is_shared(str(local_folder(options.storage)) if local else options.storage)
    load_deferred()
