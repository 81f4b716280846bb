"""`lepton token`: sign tokens on the admin's machine."""

from typing import Annotated

import typer

from lepton import errors, names
from lepton.cli.output import Json, show_done
from lepton.embedded.home import Home

app = typer.Typer(help="Sign bearer tokens. Works where the signing key lies: the machine that ran `lepton init`.")


@app.command(epilog="Example: lepton token create --workspace cards --role developer --subject ann --days 30")
def create(
    role: Annotated[str, typer.Option(help="viewer, developer, operator or admin.")] = "developer",
    workspace: Annotated[str, typer.Option(help="The workspace that the token opens.")] = "default",
    subject: Annotated[str, typer.Option(help="Who will hold it; shown in histories.")] = "user",
    days: Annotated[float, typer.Option(help="How long it lasts, days.", min=0.0001, max=3650)] = 30.0,
    as_json: Json = False,
) -> None:
    """Print a new token."""
    from lepton.embedded.credentials import issue_token

    home = Home.find()
    if not (home.credentials / "token-signing.pem").exists():
        raise errors.FailedPrecondition(f"no signing key in {home.credentials}: run `lepton init` first")
    if names.to_id(workspace) != workspace:
        raise errors.InvalidArgument(f"workspace {workspace!r} is no id: use a-z, 0-9, - and _, at most 63")
    try:
        token = issue_token(home.credentials, workspace=workspace, role=role, subject=subject, days=days)
    except ValueError as error:
        raise errors.InvalidArgument(str(error)) from error
    show_done(token, as_json, token=token, workspace=workspace, role=role, subject=subject, days=days)


@app.command(epilog="Example: LEPTON_TOKEN=$(cat $(lepton token path))")
def path(as_json: Json = False) -> None:
    """Print where the admin token lies."""
    token = Home.find().token
    show_done(str(token), as_json, path=str(token), exists=token.exists())
