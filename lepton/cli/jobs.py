"""`lepton train` and `lepton jobs`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lepton import curves, errors, names
from lepton.arguments import build
from lepton.cli.output import Json, show_done, show_message, show_table
from lepton.cli.user_files import check_output
from lepton.connection import current
from lepton.datasets import Dataset
from lepton.event_files import write_runs
from lepton.interrupts import job_continues
from lepton.jobs import Job, families
from lepton.models import check_declared_label
from lepton.pretrained import base_version
from lepton.studies import Budget, to_search
from lepton.v1 import common_pb2, training_pb2

app = typer.Typer(help="Training jobs.")

Name = Annotated[str, typer.Argument(help="The job's id.")]
_Workers = Annotated[
    int, typer.Option(help="Processes that train a network side by side; more than one needs the Ray engine.", min=1)
]


def register(root: typer.Typer) -> None:
    """Add the command that is a verb."""
    root.command(epilog="Example: lepton train boosted_trees german-credit --target creditability -p n_estimators=200")(
        train
    )
    root.command(
        epilog="Example: lepton tune mlp german-credit --trials 30 --search learning_rate=1e-4..1e-1:log "
        "--search hidden_units=16,64,256"
    )(tune)


def train(
    family: Annotated[str, typer.Argument(help="One of `lepton jobs families`.")],
    dataset: Annotated[str, typer.Argument(help="The dataset version: name@number, or the name for the newest.")],
    target: Annotated[str, typer.Option(help="The column to predict; by default the label, else the last.")] = "",
    model: Annotated[str | None, typer.Option(help="The model's id; by default from dataset and family.")] = None,
    evaluation_dataset: Annotated[str, typer.Option(help="Held-out rows: name@number.")] = "",
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="A hyperparameter: name=value; may be repeated.")
    ] = None,
    pretrained: Annotated[
        str, typer.Option(help="What to begin from: a version (name@number), a folder, or owner/name on the hub.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    handle_unknown: Annotated[str, typer.Option(help="Unknown categories at prediction: ignore or error.")] = "ignore",
    cores: Annotated[float, typer.Option(help="Cores that the job needs; 0 for the default.", min=0)] = 0,
    workers: _Workers = 1,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the job is queued.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show live curves of its metrics.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model and register it."""
    if watch and detach:
        raise errors.InvalidArgument("--watch follows the job, --detach does not wait for it: give one of them")
    source = Dataset.get(dataset)
    if not target:
        check_declared_label(source)
    spec = build(
        training_pb2.JobSpec,
        kind=training_pb2.JOB_KIND_FIT,
        family=family,
        model=model or names.to_id(f"{source.message.dataset[:40]}-{family.replace('_', '-')}"),
        dataset=source.ref,
        evaluation_dataset=Dataset.get(evaluation_dataset).ref if evaluation_dataset else "",
        target=target,
        hyperparameters=dict(_parameter(text) for text in parameter or ()),
        seed=seed,
        handle_unknown=handle_unknown,
        resources=common_pb2.Resources(cores=cores) if cores else None,
        base_version=base_version(pretrained, current()).ref if pretrained else "",
        workers=workers,
    )
    job = Job.submit(spec)
    if watch:
        _follow(job, as_json, aside=True)
        job.result()
    elif not detach:
        job.wait()
    _show_result(job, as_json)


def tune(
    family: Annotated[str, typer.Argument(help="One of `lepton jobs families`.")],
    dataset: Annotated[str, typer.Argument(help="The dataset version: name@number, or the name for the newest.")],
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="What to look through: name=low..high, name=low..high:log, or name=a,b,c; may be repeated. "
            "By default the family's own."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="Most trials; 0 for 20, or a whole grid.", min=0)] = 0,
    seconds: Annotated[float, typer.Option(help="Time after which no trial begins; 0 for any.", min=0)] = 0,
    core_seconds: Annotated[float, typer.Option(help="Cost after which no trial begins; 0 for any.", min=0)] = 0,
    parallel: Annotated[int, typer.Option(help="Trials side by side.", min=1)] = 2,
    sampler: Annotated[str, typer.Option(help="bayesian, random or grid.")] = "bayesian",
    pruner: Annotated[str, typer.Option(help="Which trials end early: median, asha or none.")] = "median",
    metric: Annotated[str, typer.Option(help="What is best; by default log_loss, rmse or mean_rank.")] = "",
    target: Annotated[str, typer.Option(help="The column to predict; by default the label, else the last.")] = "",
    model: Annotated[str | None, typer.Option(help="The model's id; by default from dataset and family.")] = None,
    evaluation_dataset: Annotated[str, typer.Option(help="Held-out rows: name@number.")] = "",
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="A hyperparameter that stays: name=value.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the study is queued.")] = False,
    as_json: Json = False,
) -> None:
    """Look for hyperparameters by trials, and register the best model."""
    source = Dataset.get(dataset)
    if not target:
        check_declared_label(source)
    space = dict(_spread(text) for text in search or ())
    spec = build(
        training_pb2.JobSpec,
        kind=training_pb2.JOB_KIND_TUNE,
        family=family,
        model=model or names.to_id(f"{source.message.dataset[:40]}-{family.replace('_', '-')}"),
        dataset=source.ref,
        evaluation_dataset=Dataset.get(evaluation_dataset).ref if evaluation_dataset else "",
        target=target,
        hyperparameters=dict(_parameter(text) for text in parameter or ()),
        seed=seed,
        search=to_search(space, sampler, pruner, metric, Budget(trials, seconds, core_seconds, parallel)),
    )
    job = Job.submit(spec)
    if not detach:
        job.wait()
        if not as_json:
            show_table(job.trials().reset_index(), as_json)
    _show_result(job, as_json)


def _show_result(job: Job, as_json: bool) -> None:
    _warn(job)
    metrics = {metric.name: round(metric.value, 4) for metric in job.message.evaluation.metrics}
    show_message(job.message, as_json, f"{job!r} {job.version} {metrics or ''}".rstrip())


@app.command(epilog="Example: lepton jobs trials job-0f3a")
def trials(name: Name, as_json: Json = False) -> None:
    """List the trials of a study."""
    show_table(Job.get(name).trials().reset_index(), as_json, "no trials yet")


@app.command("list", epilog="Example: lepton jobs list --state RUNNING")
def list_(
    state: Annotated[str, typer.Option(help="QUEUED, RUNNING, SUCCEEDED, FAILED or CANCELLED.")] = "",
    model: Annotated[str, typer.Option(help="Only jobs that write this model.")] = "",
    limit: Annotated[int, typer.Option(help="Most to print.", min=1, max=1000)] = 50,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    show_table(Job.list(state=state, model=model, limit=limit), as_json, "no jobs yet: lepton train FAMILY DATASET")


@app.command(epilog="Example: lepton jobs show job-0f3a")
def show(name: Name, as_json: Json = False) -> None:
    """Show a job."""
    job = Job.get(name)
    show_message(job.message, as_json, repr(job))


@app.command(epilog="Example: lepton jobs watch job-0f3a")
def watch(name: Name, as_json: Json = False) -> None:
    """Show a job's metrics as live curves until it ends; line by line where this is no terminal."""
    job = Job.get(name)
    _follow(job, as_json)
    _warn(job)


@app.command(epilog="Example: lepton jobs report job-0f3a --output report.html")
def report(
    name: Name,
    output: Annotated[Path, typer.Option(help="Where to write the page.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Write what is to be seen of a job's model: a page with curves, residuals and slices that opens offline."""
    check_output(output)
    found = Job.get(name).report()
    path = found.save(output)
    show_done(f"wrote {path}: {found!r}", as_json, path=str(path), metrics=found.metrics)


@app.command(epilog="Example: lepton jobs tensorboard --all --logdir runs --follow; then: tensorboard --logdir runs")
def tensorboard(
    names: Annotated[list[str] | None, typer.Argument(help="The jobs' ids.")] = None,
    logdir: Annotated[Path, typer.Option(help="Where to write: a folder a job, LOGDIR/MODEL/JOB.")] = Path("runs"),
    every: Annotated[bool, typer.Option("--all", help="Every job that there is.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on writing until the jobs end.")] = False,
    as_json: Json = False,
) -> None:
    """Write jobs' metrics as TensorBoard's event files."""
    if every == bool(names):
        raise errors.InvalidArgument("name the jobs, or say --all: lepton jobs tensorboard JOB ...")
    wanted = Job.all() if every else [Job.get(name) for name in names or ()]
    for folder in write_runs(wanted, logdir, follow=follow):
        show_done(f"wrote {folder}", as_json, path=str(folder))


@app.command(epilog="Example: lepton jobs cancel job-0f3a")
def cancel(name: Name, as_json: Json = False) -> None:
    """Ask a job to stop."""
    job = Job.get(name).cancel()
    show_message(job.message, as_json, repr(job))


@app.command(epilog="Example: lepton jobs retry job-0f3a")
def retry(name: Name, as_json: Json = False) -> None:
    """Queue a failed job again; it goes on from its checkpoint."""
    job = Job.get(name).retry()
    show_message(job.message, as_json, repr(job))


@app.command("families", epilog="Example: lepton jobs families")
def families_(as_json: Json = False) -> None:
    """List the model families and their hyperparameters."""
    show_table(families(), as_json)


def _parameter(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise errors.InvalidArgument(f"expected name=value, got {text!r}")
    try:
        json.loads(value)
    except ValueError:
        return name, json.dumps(value)
    return name, value


def _spread(text: str) -> tuple[str, object]:
    """Return a hyperparameter and what to look through, of name=low..high[:log] or name=a,b,c."""
    name, separator, value = text.partition("=")
    try:
        if ".." in value:
            ends, _, scale = value.partition(":")
            low, high = (json.loads(end) for end in ends.split(".."))
            return name, {"low": low, "high": high, "log": scale == "log"}
        if separator and value:
            return name, [json.loads(_parameter(f"{name}={item}")[1]) for item in value.split(",")]
    except ValueError:
        pass
    raise errors.InvalidArgument(f"expected name=low..high, name=low..high:log or name=a,b,c, got {text!r}")


def _warn(job: Job) -> None:
    """Print what in a job's rows looks wrong, aside."""
    for text in job.warnings:
        typer.echo(f"warning: {text}", err=True)


def _follow(job: Job, as_json: bool, *, aside: bool = False) -> None:
    """Show a job's updates until it ends; aside, on stderr, where stdout is for what comes of it."""
    console = Console(stderr=True)
    with job_continues(job.name):
        if console.is_terminal and not as_json:
            curves.follow(job.name, job.watch(), console)
            return
        _print_updates(job, as_json, aside)


def _print_updates(job: Job, as_json: bool, aside: bool) -> None:
    for update in job.watch():
        if as_json:
            typer.echo(json.dumps(vars(update), default=str), err=aside)
        else:
            metrics = " ".join(f"{key}={value:.4g}" for key, value in update.metrics.items())
            line = f"{update.sequence:>4} {update.state:<9} {update.progress:>4.0%} {update.message} {metrics}"
            typer.echo(line.rstrip(), err=aside)
