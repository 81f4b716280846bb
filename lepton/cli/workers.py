"""`lepton workers`: list, drain, resume, placements."""

from typing import Annotated

import typer

from lepton import workers
from lepton.cli.output import Json, show_done, show_table

app = typer.Typer(help="Workers: who runs replicas and jobs.")

Name = Annotated[str, typer.Argument(help="The worker's id.")]


@app.command("list", epilog="Example: lepton workers list")
def list_(as_json: Json = False) -> None:
    """List workers with their load."""
    show_table(workers.list_workers(), as_json, "no workers")


@app.command(epilog="Example: lepton workers placements")
def placements(as_json: Json = False) -> None:
    """List where your replicas and jobs stand."""
    show_table(workers.list_placements(), as_json, "nothing is placed")


@app.command(epilog="Example: lepton workers drain inference-worker-2")
def drain(name: Name, as_json: Json = False) -> None:
    """Move a worker's work away and give it no more."""
    workers.drain_worker(name)
    show_done(f"{name} drains", as_json, worker=name, state="DRAINING")


@app.command(epilog="Example: lepton workers resume inference-worker-2")
def resume(name: Name, as_json: Json = False) -> None:
    """Let a drained worker take work again."""
    workers.resume_worker(name)
    show_done(f"{name} takes work again", as_json, worker=name, state="ACTIVE")
