"""`lepton models`: versions, aliases, upload and download."""

import warnings
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from lepton import errors, names
from lepton.cli.output import Json, show_done, show_message, show_table
from lepton.cli.user_files import check_output
from lepton.connection import current
from lepton.deletions import describe_broken
from lepton.pretrained import upload_folder
from lepton.v1 import registry_pb2
from lepton.versions import ModelVersion, aliases, rollback

app = typer.Typer(help="Models, their versions and aliases.")

ModelName = Annotated[str, typer.Argument(help="The model's id.")]
Ref = Annotated[str, typer.Argument(help="name@3, name@champion, or the name alone for the newest READY version.")]


@app.command("list", epilog="Example: lepton models list")
def list_(
    model: Annotated[str, typer.Argument(help="List this model's versions instead.")] = "", as_json: Json = False
) -> None:
    """List models, or the versions of one."""
    show_table(ModelVersion.list(model) if model else ModelVersion.list_models(), as_json, "no models yet")


@app.command(epilog="Example: lepton models show credit@champion")
def show(ref: Ref, as_json: Json = False) -> None:
    """Show a version: state, signature, lineage, parity; its scores, on its parent's rows, too, beside the parent's."""
    version = ModelVersion.get(ref)
    show_message(version.message, as_json, repr(version))
    if not as_json and version.message.evaluations:
        typer.echo()
        show_table(version.evaluations(), as_json)


@app.command(epilog="Example: lepton models promote credit@3 --alias champion")
def promote(
    ref: Ref,
    alias: Annotated[str, typer.Option(help="The alias.")] = "champion",
    etag: Annotated[str, typer.Option(help="Move it only if it still has this etag.")] = "",
    as_json: Json = False,
) -> None:
    """Point an alias at a version."""
    moved = ModelVersion.get(ref).promote(alias, etag=etag)
    show_message(moved, as_json, f"{moved.model}@{moved.name} is now {moved.model}@{moved.number}")


@app.command("rollback", epilog="Example: lepton models rollback credit --alias champion")
def rollback_(
    model: ModelName, alias: Annotated[str, typer.Option(help="The alias.")] = "champion", as_json: Json = False
) -> None:
    """Point an alias back at the version that it named before."""
    moved = rollback(model, alias)
    show_message(moved, as_json, f"{moved.model}@{moved.name} is now {moved.model}@{moved.number}")


@app.command("aliases", epilog="Example: lepton models aliases credit")
def aliases_(model: ModelName, as_json: Json = False) -> None:
    """List a model's aliases."""
    frame = pd.DataFrame(list(aliases(model).items()), columns=["alias", "number"])
    show_table(frame, as_json, "no aliases yet: lepton models promote")


@app.command(
    epilog="Examples: lepton models upload fraud fraud.onnx; lepton models upload mood mood.onnx --file tokenizer.json"
    "; lepton models upload vad silero_vad.onnx --example example.npz"
    "; lepton models upload minilm path/to/all-MiniLM-L6-v2"
)
def upload(
    model: ModelName,
    path: Annotated[
        Path,
        typer.Argument(help="An ONNX file; or a folder of pretrained weights, which fits begin from.", exists=True),
    ],
    file: Annotated[
        list[Path] | None,
        typer.Option(help="A file beside it, tokenizer.json say; may be repeated.", exists=True, dir_okay=False),
    ] = None,
    example: Annotated[
        Path | None,
        typer.Option(
            help="A request that the model answers, tried in place of made-up ones: .npz of arrays by input, or .json.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    as_json: Json = False,
) -> None:
    """Register an ONNX model that was made elsewhere, or pretrained weights.

    Files that the model reads weights from (model.onnx.data) in the same folder are uploaded, too.
    """
    if path.is_dir():
        if file or example:
            raise errors.InvalidArgument("--file goes with an ONNX file; a folder is uploaded with all that it holds")
        version = upload_folder(path, name=model, description=description, connection=current())
        show_message(version.message, as_json, repr(version))
        return
    with warnings.catch_warnings():
        # Shown below.
        warnings.simplefilter("ignore", UserWarning)
        version = ModelVersion.upload(model, path, files=file or (), example=example, description=description)
    show_message(version.message, as_json, repr(version))
    for text in version.warnings:
        typer.echo(f"warning: {text}", err=True)


@app.command(
    epilog="Examples: lepton models download credit@champion --output credit.onnx; "
    "lepton models download scans@3 --all --output scans"
)
def download(
    ref: Ref,
    output: Annotated[Path, typer.Option(help="Where to write it.")] = Path("model.onnx"),
    artifact: Annotated[str | None, typer.Option(help="Which of the version's files; model.onnx by default.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All files, into a folder.")] = False,
    as_json: Json = False,
) -> None:
    """Write one of a version's files, or all."""
    if all_:
        if artifact is not None:
            raise errors.InvalidArgument("--all writes every file, --artifact one of them: give one of the two")
        version = ModelVersion.get(ref)
        size = sum(item.size_bytes for item in version.message.artifacts)
        show_done(f"wrote {version.save(output)} ({size:,} bytes)", as_json, path=str(output), size_bytes=size)
        return
    check_output(output)
    content = ModelVersion.get(ref).download(artifact or "model.onnx")
    output.write_bytes(content)
    show_done(f"wrote {output} ({len(content):,} bytes)", as_json, path=str(output), size_bytes=len(content))


@app.command(epilog="Example: lepton models delete credit@2 --force")
def delete(
    ref: Annotated[str, typer.Argument(help="name@number for one version, or the name alone for the whole model.")],
    force: Annotated[
        bool, typer.Option("--force", help="Delete it although something uses it; what breaks is printed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete a version, or a model with all its versions and aliases.

    It is refused while a deployment or a job uses one, or an alias names a version that is deleted by itself.
    """
    if "@" in ref:
        broken = ModelVersion.get(ref).delete(force=force)
    else:
        request = registry_pb2.DeleteModelRequest(name=ref, request_id=names.request_id(), force=force)
        broken = describe_broken(current().registry.DeleteModel(request))
    text = f"deleted {ref}" + "".join(f"\n  broken: {item}" for item in broken)
    show_done(text, as_json, deleted=ref, broken=broken)
