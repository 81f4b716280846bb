"""TensorBoard's event files of jobs: a folder a run, scalars by step, hyperparameters."""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lepton.jobs import Job, Update
from lepton.v1 import training_pb2

_FILES = "events.out.tfevents.*"
# How long what was written may wait before a running TensorBoard sees it.
_FLUSH_SECONDS = 2


def write_run(job: Job, logdir: Path, *, follow: bool = False) -> Path:
    """Write a job's metrics, those so far or until it ends; return the run's folder, LOGDIR/MODEL/JOB.

    What an earlier call wrote for the job is replaced, so that no point is there twice.
    """
    # Half a second to import, which nobody else needs.
    from tensorboardX import SummaryWriter

    spec = job.message.spec
    folder = logdir / (spec.model or spec.base_version.partition("@")[0] or "evaluations") / job.name
    for old in folder.glob(_FILES):
        old.unlink()
    with SummaryWriter(logdir=str(folder), flush_secs=_FLUSH_SECONDS, write_to_disk=True) as writer:
        _write_settings(writer, job)
        last_step = 0
        for update in job.watch() if follow else job.so_far():
            last_step = update.step or last_step
            _write_update(writer, update, last_step)
        _write_end(writer, job, last_step)
    return folder


def write_runs(jobs: Sequence[Job], logdir: Path, *, follow: bool = False) -> Iterator[Path]:
    """Write several jobs, yielding each run's folder; those that run still are followed side by side."""
    if not follow:
        yield from (write_run(job, logdir) for job in jobs)
        return
    found: list[Path] = []
    failures: list[Exception] = []

    def write(job: Job) -> None:
        try:
            found.append(write_run(job, logdir, follow=True))
        except Exception as error:
            failures.append(error)

    # Daemons: who is interrupted while following need not wait for the jobs.
    threads = [threading.Thread(target=write, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    yield from found


def _write_settings(writer: Any, job: Job) -> None:
    spec = job.message.spec
    settings = {name: json.loads(value) for name, value in sorted(spec.hyperparameters.items())}
    facts = {
        "job": job.name,
        "kind": training_pb2.JobKind.Name(spec.kind).removeprefix("JOB_KIND_").lower(),
        "family": spec.family,
        "rows": spec.dataset,
        "target": spec.target,
        "base version": spec.base_version,
        "seed": spec.seed,
        **settings,
    }
    lines = [f"| {name} | {value} |" for name, value in facts.items() if value != ""]
    writer.add_text("job", "\n".join(["| setting | value |", "| --- | --- |", *lines]), 0, _seconds(job))


def _write_update(writer: Any, update: Update, step: int) -> None:
    # Metrics of no step are the scores at the end.
    prefix = "" if update.step else "evaluation/"
    for name, value in update.metrics.items():
        writer.add_scalar(prefix + name, value, update.step or step, update.time.timestamp())
    if update.peak_memory_bytes:
        seconds = update.time.timestamp()
        writer.add_scalar("resources/peak_memory_mib", update.peak_memory_bytes / 2**20, update.sequence, seconds)
        writer.add_scalar("resources/core_seconds", update.core_seconds, update.sequence, seconds)


def _write_end(writer: Any, job: Job, step: int) -> None:
    """Write the table by which TensorBoard compares runs, once there is a score to compare."""
    from tensorboardX.summary import hparams

    scores = [f"evaluation/{metric.name}" for metric in job.message.evaluation.metrics]
    if not scores:
        return
    spec = job.message.spec
    settings = {name: json.loads(value) for name, value in sorted(spec.hyperparameters.items())}
    settings |= {"family": spec.family, "seed": spec.seed}
    for summary in hparams(settings, dict.fromkeys(scores, 0.0)):
        writer.file_writer.add_summary(summary, step)


def _seconds(job: Job) -> float:
    return job.message.create_time.ToNanoseconds() / 1e9
