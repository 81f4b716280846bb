"""Ctrl-C while waiting for the platform: what continues there, and how to stop it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended the wait alone.

    Args:
        message: what continues, how to follow it, and how to stop it.
        name: the job's or the deployment's id; empty where unknown.
    """

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.name = name


@contextmanager
def job_continues(name: str, cancel: Callable[[], object] | None = None) -> Iterator[None]:
    """Print at Ctrl-C in a block that the job continues; in a terminal, ask whether to cancel it.

    Args:
        name: the job's id.
        cancel: cancels it; None asks nothing.

    Raises:
        Interrupted: instead of KeyboardInterrupt.
    """
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        if cancel is not None and _is_terminal() and _is_pressed_again(name):
            cancel()
            raise Interrupted(
                f"job {name} is asked to stop: `lepton jobs show {name}` says when it has", name
            ) from None
        raise Interrupted(
            f"job {name} continues: `lepton jobs watch {name}` follows it, `lepton jobs cancel {name}` stops it", name
        ) from None


@contextmanager
def deployment_continues(name: str) -> Iterator[None]:
    """Print at Ctrl-C in a block that the deployment continues.

    Raises:
        Interrupted: instead of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"deployment {name} continues: `lepton deployments show {name}` shows it, "
            f"`lepton deployments delete {name}` ends it",
            name,
        ) from None


@contextmanager
def job_may_be_queued() -> Iterator[None]:
    """Say of Ctrl-C while a job is submitted that it may have arrived.

    Raises:
        Interrupted: instead of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("the job may be queued already: `lepton jobs list` shows it") from None


def _is_terminal() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def _is_pressed_again(name: str) -> bool:
    """Return whether Ctrl-C is pressed at the prompt; Enter, or the end of the input, leaves the job alone."""
    print(
        f"\njob {name} continues. Ctrl-C again cancels it, Enter leaves it running: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    try:
        sys.stdin.readline()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return True
    return False
