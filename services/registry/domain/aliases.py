"""Aliases: movable names of versions, with history and compare-and-set."""

from dataclasses import dataclass
from datetime import datetime

from servicekit.errors import Aborted, FailedPrecondition, InvalidArgument

ABSENT = "absent"


@dataclass(frozen=True)
class Alias:
    """A name for a version.

    Args:
        model, name: which alias it is.
        number: the version.
        etag: changes with every move.
        update_time: of the last move.
    """

    model: str
    name: str
    number: int
    etag: str
    update_time: datetime


@dataclass(frozen=True)
class Move:
    """One move of an alias.

    Args:
        from_number: 0 where it was created.
        to_number: 0 where it was deleted.
        subject: who moved it.
        time: when.
    """

    from_number: int
    to_number: int
    subject: str
    time: datetime


def check_name(name: str) -> None:
    """Check an alias's name.

    Raises:
        InvalidArgument: it could be taken for a number.
    """
    if name.isdecimal():
        raise InvalidArgument(f"an alias cannot be a number: {name!r}", reason="BAD_ALIAS")


def check_etag(present: Alias | None, etag: str) -> None:
    """Check that an alias is as the caller saw it last.

    Raises:
        Aborted: it moved meanwhile.
    """
    found = present.etag if present else ABSENT
    if etag and etag != found:
        raise Aborted(
            "the alias moved since you looked: read it again, then decide",
            reason="ETAG_MISMATCH",
            metadata={"etag": found},
        )


def rollback_target(alias: Alias, moves: list[Move]) -> int:
    """Return the version that an alias named before its last move. A second rollback so undoes the first.

    Args:
        alias: as it is.
        moves: its moves, newest first.

    Raises:
        FailedPrecondition: it never named another.
    """
    if not moves or not moves[0].from_number:
        raise FailedPrecondition(
            f"{alias.model}@{alias.name} never named another version: there is nothing to roll back to",
            reason="NOTHING_TO_ROLL_BACK",
        )
    return moves[0].from_number
