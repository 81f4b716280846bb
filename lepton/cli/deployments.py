"""`lepton deploy`, `lepton deployments` and `lepton predict`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lepton import errors
from lepton.cli import releases
from lepton.cli.output import Json, show_done, show_message, show_table, shown_warnings
from lepton.cli.user_files import check_output, reading
from lepton.deployment import Deploy
from lepton.plans import candidates_frame
from lepton.releases import versions_frame
from lepton.resources import describe
from lepton.typed_files import read_rows
from lepton.v1 import common_pb2
from lepton.versions import ModelVersion

app = typer.Typer(help="What is served.")

Name = Annotated[str, typer.Argument(help="The deployment's id.")]


def register(root: typer.Typer) -> None:
    """Add the commands that are verbs, and the noun."""
    root.command(
        epilog="Examples: lepton deploy credit@champion --replicas 2; lepton deploy bert --cores 2 --memory 3GiB"
    )(deploy)
    root.command(
        epilog="Examples: lepton predict credit applications.csv --json; lepton predict prices --row '{\"size\": 20}'"
    )(predict)
    releases.register(app)
    root.add_typer(app, name="deployments")


def deploy(
    ref: Annotated[str, typer.Argument(help="name@3, name@champion (followed as it moves), or the name alone.")],
    name: Annotated[str | None, typer.Option(help="The deployment's id; by default the model's.")] = None,
    replicas: Annotated[
        int | None, typer.Option(help="Replicas wanted, at least; by default 1.", min=1, max=1000)
    ] = None,
    cores: Annotated[
        float | None, typer.Option(help="Cores that a replica reserves, such as 0.5; 0 follows what is measured.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory that a replica reserves, such as 512MiB or 2GiB; 0 follows what is measured."),
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs that a replica reserves; 0.5 shares one with others.")
    ] = None,
    tuning: Annotated[str | None, typer.Option(help="How far to go for a faster execution plan: see tune.")] = None,
    batching: Annotated[
        str | None,
        typer.Option(
            help="auto (the default): requests share runs where rows are shown to be independent; off: never."
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="How long to wait for it to serve, seconds; 0 not at all.")] = 60,
    as_json: Json = False,
) -> None:
    """Serve a model version, or change what a deployment serves."""
    version = ModelVersion.get(ref)
    deployment = Deploy(
        version, name=name, replicas=replicas, cores=cores, memory=memory, gpus=gpus, tuning=tuning, batching=batching
    ).save(version=ref if "@" in ref else version.ref)
    status = deployment.wait(timeout) if timeout else deployment.status()
    show_message(status, as_json, f"{deployment.name} serves {status.version} (version {status.number})")


def predict(
    name: Name,
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Rows: .csv, .tsv, .txt, .parquet or .jsonl; texts also with .gz, .bz2 or .xz.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    row: Annotated[list[str] | None, typer.Option(help="A row as a JSON object; may be repeated.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be repeated.")] = None,
    text_pair: Annotated[
        list[str] | None, typer.Option(help="What is read together with the --text before it; one each.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="A PNG or JPEG file; may be repeated.", exists=True, dir_okay=False)
    ] = None,
    version: Annotated[str, typer.Option(help="A version number or alias; by default the deployment's own.")] = "",
    output: Annotated[Path | None, typer.Option(help="Write a CSV here instead of printing.")] = None,
    as_json: Json = False,
) -> None:
    """Print predictions for the rows of a file, or for rows, texts, pairs of texts or images given as options."""
    if [path is not None, bool(row), bool(text), bool(image)].count(True) != 1:
        raise errors.InvalidArgument("give a file, or --row, --text or --image: see `lepton predict --help`")
    if text_pair and len(text_pair) != len(text or ()):
        raise errors.InvalidArgument(
            f"give one --text-pair for each --text: got {len(text_pair)} and {len(text or ())}"
        )
    if output is not None:
        check_output(output)
    deployment = Deploy(name)
    if path is not None:
        with reading(path):
            rows = read_rows(path)
        with shown_warnings():
            result = deployment.predict(rows.typed(deployment.signature()), version=version)
    elif row:
        with shown_warnings():
            result = deployment.predict_rows([_record(given) for given in row], version=version)
    elif text:
        given = list(zip(text, text_pair, strict=True)) if text_pair else text
        result = deployment.predict_texts(given, version=version)
    else:
        result = deployment.predict_images(image or (), version=version)
    if output is None:
        show_table(result, as_json)
        return
    result.to_csv(output, index=False)
    show_done(f"wrote {output} ({len(result):,} rows)", as_json, path=str(output), rows=len(result))


@app.command("list", epilog="Example: lepton deployments list")
def list_(as_json: Json = False) -> None:
    """List deployments."""
    show_table(Deploy.list(), as_json, "nothing is deployed yet: lepton deploy MODEL")


@app.command(epilog="Example: lepton deployments show credit")
def show(name: Name, as_json: Json = False) -> None:
    """Show a deployment, with its execution plans: what was tried, how fast it was, and what it would lose."""
    status = Deploy(name).status()
    if as_json:
        show_message(status, as_json, name)
        return
    bare = type(status)()
    bare.CopyFrom(status)
    bare.ClearField("plans")
    bare.ClearField("statistics")
    show_message(bare, as_json, name)
    typer.echo(f"each replica reserves {describe(status.resources)}{_origin(status.declared_resources)}")
    show_table(versions_frame(status).drop(columns="batching"), as_json, "no worker holds a version of it yet")
    for item in status.statistics:
        if item.batching:
            typer.echo(f"version {item.number}: {item.batching}")
    for plan in status.plans:
        typer.echo(f"\nplan {plan.name} on {plan.hardware}: {plan.message}")
        speeds = (
            f"{item.rows}: {item.plain_rows_per_second:,.0f} -> {item.rows_per_second:,.0f}" for item in plan.speeds
        )
        if plan.speeds:
            typer.echo(f"rows a second by batch, plain -> chosen: {', '.join(speeds)}; best batch {plan.batch_rows}")
        if plan.HasField("quality"):
            quality = plan.quality
            typer.echo(
                f"{quality.metric} {quality.points:.2f} points, plain {quality.plain_points:.2f}, "
                f"on {quality.rows:,} rows of {quality.dataset}"
            )
        if plan.candidates:
            show_table(candidates_frame(plan), as_json)


@app.command(epilog="Example: lepton deployments tune credit within_loss --max-loss 0.5 --on credit-test@1")
def tune(
    name: Name,
    mode: Annotated[
        str, typer.Argument(help="off, lossless (graph, threads, batch) or within_loss (also int8, fp16).")
    ],
    max_loss: Annotated[
        float | None, typer.Option(help="Most quality that a plan may lose, points; by default the platform's, 0.5.")
    ] = None,
    on: Annotated[str | None, typer.Option(help="Judge on this dataset version; by default the version's own.")] = None,
    as_json: Json = False,
) -> None:
    """Say how far workers may go for a faster execution plan; they follow while they serve."""
    status = Deploy(name).tune(mode, max_quality_loss_points=max_loss, evaluation_dataset=on)
    show_message(status, as_json, f"{name} is tuned anew: lepton deployments show {name} tells what is chosen")


@app.command(epilog="Example: lepton deployments cache credit 64")
def cache(
    name: Name,
    mib: Annotated[int, typer.Argument(help="What each worker may keep of its answers, MiB; 0 keeps none.", min=0)],
    as_json: Json = False,
) -> None:
    """Keep answers for requests whose tensors are the same: they are given again without a run."""
    status = Deploy(name).cache(mib << 20)
    show_message(status, as_json, f"{name} keeps {mib} MiB of answers" if mib else f"{name} keeps no answers")


@app.command(epilog="Example: lepton deployments batch credit off")
def batch(
    name: Name,
    mode: Annotated[str, typer.Argument(help="auto (where rows are shown to be independent) or off.")],
    as_json: Json = False,
) -> None:
    """Set whether rows of several requests may share a run; `show` prints what each version does, and why."""
    status = Deploy(name).batch(mode)
    show_message(status, as_json, f"{name} has batching {mode}")


@app.command(epilog="Example: lepton deployments score credit applications@3 --output scored")
def score(
    name: Name,
    dataset: Annotated[str, typer.Argument(help="The version to score: name@number, or the name alone.")],
    output: Annotated[str | None, typer.Option(help="The new dataset's id; by default NAME-scored.")] = None,
    version: Annotated[str, typer.Option(help="A version number or alias; by default the deployment's own.")] = "",
    column: Annotated[list[str] | None, typer.Option(help="Carry this column along; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Predict for every row of a dataset, into a new version with rows and predictions."""
    with shown_warnings():
        scored = Deploy(name).score(dataset, name=output, version=version, columns=column or ())
    if as_json:
        show_message(scored.message, True, "")
        return
    typer.echo(f"{scored.ref}: {scored.message.rows:,} rows x {len(scored.columns)} columns")


@app.command(epilog="Example: lepton deployments rollback credit")
def rollback(name: Name, as_json: Json = False) -> None:
    """Serve again what was served before."""
    status = Deploy(name).rollback()
    show_message(status, as_json, f"{name} goes back to version {status.number}")


@app.command(epilog="Example: lepton deployments delete credit")
def delete(name: Name, as_json: Json = False) -> None:
    """Stop serving."""
    Deploy(name).delete()
    show_done(f"deleted {name}", as_json, deleted=name)


def _origin(declared: common_pb2.Resources) -> str:
    """Return which part of a reservation was declared."""
    if declared.cores and declared.memory_bytes:
        return " (declared)"
    what = "cores and memory follow" if not (declared.cores or declared.memory_bytes) else "the rest follows"
    given = [f"{declared.cores:g} cores" if declared.cores else ""]
    given += [f"{declared.memory_bytes / (1 << 20):g} MiB" if declared.memory_bytes else ""]
    named = ", ".join(part for part in given if part)
    return f" ({named + ' declared, ' if named else ''}{what} what is measured)"


def _record(text: str) -> dict[str, object]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise errors.InvalidArgument(f"--row is no JSON: {error}") from None
    if not isinstance(record, dict):
        raise errors.InvalidArgument(f"--row must be a JSON object, a value by column: got {text}")
    return record
