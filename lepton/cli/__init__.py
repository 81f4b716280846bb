"""The `lepton` command: one noun a file; every command has `--json`, and help with examples."""

import importlib.util
import sys

import typer

from lepton import errors

app = typer.Typer(
    name="lepton",
    help="Data in, a governed and monitored gRPC endpoint out.",
    epilog="Start with `lepton up`, then `lepton data import german_credit.csv --label creditability`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


_PLATFORM_COMMANDS = ("init", "up", "down", "status", "logs", "token")


def _register(wanted: str) -> None:
    """Add the commands; where one of the platform's is wanted, only those: the others cost a second to import."""
    from lepton.cli import platform, tokens

    platform.register(app)
    app.add_typer(tokens.app, name="token")
    if wanted in _PLATFORM_COMMANDS:
        return
    from lepton.cli import data, deployments, jobs, models, workers

    app.add_typer(data.app, name="data")
    jobs.register(app)
    app.add_typer(jobs.app, name="jobs")
    app.add_typer(models.app, name="models")
    deployments.register(app)
    app.add_typer(workers.app, name="workers")


def main() -> None:
    """Run the command; a failure is one line on stderr and exit code 1, never a traceback of the transport."""
    _register(sys.argv[1] if len(sys.argv) > 1 else "")
    try:
        app()
    except errors.LeptonError as error:
        _fail(error.message)
    except (KeyError, FileNotFoundError) as error:
        _fail(str(error.args[-1] if isinstance(error, KeyError) else error))
    except ModuleNotFoundError as error:
        if importlib.util.find_spec("nats") is not None:
            raise
        _fail(f"this command needs the whole platform ({error.name} is missing): pip install 'lepton[platform]'")


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1)
