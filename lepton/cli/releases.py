"""`lepton deployments split | canary | shadow | promote | abort`: releasing a version safely."""

from collections.abc import Iterable, Mapping
from typing import Annotated

import typer

from lepton import errors
from lepton.cli.output import Json, show_message
from lepton.deployment import Deploy

Name = Annotated[str, typer.Argument(help="The deployment's id.")]
Version = Annotated[str | None, typer.Argument(help="name@4 or name@alias; leave it out to end what there is.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `lepton deployments`."""
    app.command(epilog="Example: lepton deployments split credit credit@4=10 credit@5=5; no shares end a split")(split)
    app.command(epilog="Example: lepton deployments canary credit credit@4 --step 5 --step 25 --step-seconds 600")(
        canary
    )
    app.command(epilog="Example: lepton deployments shadow credit credit@4 --percent 50")(shadow)
    app.command(epilog="Example: lepton deployments promote credit")(promote)
    app.command(epilog="Example: lepton deployments abort credit")(abort)


def split(
    name: Name,
    shares: Annotated[list[str] | None, typer.Argument(help="VERSION=PERCENT; the deployment's own has the rest.")] = (
        None
    ),
    as_json: Json = False,
) -> None:
    """Have other versions answer a share of the requests."""
    wanted = _shares(shares or ())
    status = Deploy(name).split(wanted)
    show_message(status, as_json, f"{name} is split" if shares else f"{name} is split no more")


def canary(
    name: Name,
    version: Version = None,
    step: Annotated[list[float] | None, typer.Option(help="A share, percent; repeat, rising: 5, 25, 50.")] = None,
    step_seconds: Annotated[float | None, typer.Option(help="How long a step lasts at least: 60.")] = None,
    min_requests: Annotated[int | None, typer.Option(help="That each version has in a step: 100.")] = None,
    max_error_rate_increase: Annotated[float | None, typer.Option(help="Share of failures more, 0 to 1: 0.01.")] = None,
    max_latency_ratio: Annotated[float | None, typer.Option(help="Of the 99th percentiles: 1.5.")] = None,
    min_agreement: Annotated[float | None, typer.Option(help="Share of answers that agree, 0 to 1: 0, none.")] = None,
    as_json: Json = False,
) -> None:
    """Have a version take over step by step, as long as it does as well as the present one."""
    rules = {
        "step_seconds": step_seconds,
        "min_requests": min_requests,
        "max_error_rate_increase": max_error_rate_increase,
        "max_latency_ratio": max_latency_ratio,
        "min_agreement": min_agreement,
    }
    if version is None:
        _refuse_unused({"step": step, **rules})
    status = Deploy(name).canary(version, steps=step or (), **rules)
    show_message(
        status, as_json, f"{version} begins: lepton deployments show {name}" if version else "the canary ended"
    )


def shadow(
    name: Name,
    version: Version = None,
    percent: Annotated[float | None, typer.Option(help="Of the requests; 100 by default.", min=0, max=100)] = None,
    as_json: Json = False,
) -> None:
    """Run requests once more on a version and compare its answers; it answers nobody."""
    if version is None:
        _refuse_unused({"percent": percent})
    status = Deploy(name).shadow(version, percent=100.0 if percent is None else percent)
    show_message(status, as_json, f"{version} is compared" if version else "the shadow ended")


def promote(name: Name, as_json: Json = False) -> None:
    """Make the running canary's version the deployment's own, now."""
    status = Deploy(name).promote()
    show_message(status, as_json, f"{name} serves version {status.number}")


def abort(name: Name, as_json: Json = False) -> None:
    """End the running canary, now."""
    status = Deploy(name).abort()
    show_message(status, as_json, f"{name} serves version {status.number} alone")


def _refuse_unused(options: Mapping[str, object]) -> None:
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value not in (None, [])]
    if given:
        raise errors.InvalidArgument(f"{', '.join(given)} needs a VERSION: without one, the command ends what there is")


def _shares(texts: Iterable[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for version, percent in map(_share, texts):
        if version in found:
            raise errors.InvalidArgument(f"{version} has two shares: expected each version once")
        found[version] = percent
    return found


def _share(text: str) -> tuple[str, float]:
    version, _, percent = text.rpartition("=")
    try:
        return version, float(percent)
    except ValueError:
        raise typer.BadParameter(f"expected VERSION=PERCENT, such as credit@4=10, got {text!r}") from None
