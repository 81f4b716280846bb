"""Files that users name on the command line: read and written with one-line errors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lepton import errors
from lepton.cli.failures import first_line


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a reader raises on a file into InvalidArgument with the file's name.

    Raises:
        InvalidArgument: the file is not what its name says; the message has the reader's first line.
    """
    try:
        yield
    except (errors.LeptonError, OSError):
        raise
    # Readers raise their libraries' own kinds: ParserError, ArrowInvalid, UnicodeDecodeError, OverflowError, ...
    except Exception as error:
        raise errors.InvalidArgument(f"cannot read {path}: {first_line(error)}", reason="UNREADABLE_FILE") from error


def check_output(path: Path) -> None:
    """Check that a file can be written at a path, before work is spent on its content.

    Raises:
        InvalidArgument: the path is a folder, its folder does not exist, or nothing may be written there.
    """
    folder = path.parent
    if path.is_dir():
        raise _not_writable(path, "it is a folder; name a file in it")
    if not folder.is_dir():
        raise _not_writable(path, f"there is no folder {folder}; create it first")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise _not_writable(path, "permission denied")


def _not_writable(path: Path, why: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"cannot write {path}: {why}", reason="UNWRITABLE_FILE")
