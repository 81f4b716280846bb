"""The commands of `lepton`: one noun a module; every command has `--json`, and help with examples."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup


class _Group(TyperGroup):
    """The commands; Ctrl-C in one prints what still runs on the platform, and exits with 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            if message := getattr(error, "message", ""):
                print(message, file=sys.stderr)
            raise SystemExit(130) from None


app = typer.Typer(
    cls=_Group,
    name="lepton",
    help="Data in, a governed and monitored gRPC endpoint out.",
    epilog="Start with `lepton up`, then `lepton data import german_credit.csv --label creditability`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


_PLATFORM_COMMANDS = ("init", "up", "down", "status", "logs", "token")


def run(wanted: str) -> None:
    """Run the command line, whose first word is known: where a platform's command is wanted, only those are imported.

    The others cost a second to import.
    """
    from lepton.cli import platform, tokens

    platform.register(app)
    app.add_typer(tokens.app, name="token")
    if wanted not in _PLATFORM_COMMANDS:
        _register_rest()
    app()


def _register_rest() -> None:
    from lepton.cli import data, deployments, jobs, models, workers

    app.add_typer(data.app, name="data")
    jobs.register(app)
    app.add_typer(jobs.app, name="jobs")
    app.add_typer(models.app, name="models")
    deployments.register(app)
    app.add_typer(workers.app, name="workers")
