"""What the readers of all formats share: files opened from the start, their text, and the names of their columns."""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.data.domain.import_options import ALL_COLUMNS, ImportOptions

Batches = Iterator[pa.RecordBatch]
OpenFile = Callable[[], BinaryIO]

# A row of a text file must fit in here: what is read at a time.
BLOCK_BYTES = 4 << 20
BATCH_ROWS = 16_384
MAX_COLUMNS = 10_000
_NAME_CHARACTERS = 256
# A version's description travels in events, which NATS takes up to 1 MB.
_NAMES_BYTES = 256 << 10


@dataclass(frozen=True)
class ReadFile:
    """A file's rows.

    Args:
        schema: their columns, companions of texts last: see `original_texts`.
        batches: the rows.
        notes: what was decided and the user may want otherwise.
        missing: the texts that were missing values, by column, where they are not the default list.
    """

    schema: pa.Schema
    batches: Batches
    notes: list[str] = field(default_factory=list)
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)


def check_known(options: ImportOptions, names: list[str]) -> None:
    """Check that the columns for which options are given are there.

    Raises:
        InvalidArgument: some are not; all are named.
    """
    given = {
        "types": options.types,
        "column_missing": options.column_missing,
        "date_formats": {name: "" for name in options.date_formats if name != ALL_COLUMNS},
    }
    wrong = [(option, name) for option, columns in given.items() for name in columns if name not in set(names)]
    if wrong:
        raise InvalidArgument(
            f"options are given for columns that the file lacks: {', '.join(repr(name) for _, name in wrong[:20])}; "
            f"it has {', '.join(names[:50])}",
            reason="UNKNOWN_COLUMN",
            violations=[(f"options.{option}[{name}]", "no such column") for option, name in wrong],
        )


def check_names(names: list[str]) -> None:
    """Check the columns' names.

    Raises:
        InvalidArgument: one is empty, too long or stands twice, or there are none or too many.
    """
    if not names:
        raise InvalidArgument("the file has no columns", reason="EMPTY_FILE")
    if len(names) > MAX_COLUMNS:
        raise InvalidArgument(
            f"the file has {len(names):,} columns, at most {MAX_COLUMNS:,} are taken", reason="TOO_MANY_COLUMNS"
        )
    seen: set[str] = set()
    for position, name in enumerate(names, 1):
        if not name.strip():
            raise InvalidArgument(f"column {position} has no name", reason="EMPTY_COLUMN_NAME")
        if name in seen:
            raise InvalidArgument(f"column name {name[:100]!r} stands twice", reason="DUPLICATE_COLUMN")
        if len(name) > _NAME_CHARACTERS or "\0" in name:
            raise InvalidArgument(
                f"the name of column {position} is longer than {_NAME_CHARACTERS}, or no text: {name[:50]!r}",
                reason="BAD_COLUMN_NAME",
            )
        seen.add(name)
    if sum(len(name.encode()) for name in names) > _NAMES_BYTES:
        raise InvalidArgument(
            f"the columns' names take more than {_NAMES_BYTES:,} bytes together", reason="TOO_MANY_COLUMNS"
        )


def check_utf8(open_file: OpenFile) -> None:
    """Check that a file is UTF-8 throughout.

    Raises:
        InvalidArgument: it is not; the message says which byte is the first that is not, and what to do.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    position, lines, beginning = 0, 1, b""
    with open_file() as file:
        while True:
            chunk = file.read(BLOCK_BYTES)
            beginning = beginning or chunk[:2]
            # A character that the last chunk began belongs to the place where it began.
            begun = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = position - begun + error.start
                lines += error.object.count(b"\n", 0, error.start)
                raise InvalidArgument(
                    f"the file is not UTF-8: byte {place:,} (counted from 0), on line {lines:,}, cannot be read; "
                    f"{_hint(beginning)}, or save it as UTF-8",
                    reason="NOT_UTF8",
                    metadata={"byte": str(place), "line": str(lines)},
                ) from error
            if not chunk:
                return
            position += len(chunk)
            lines += chunk.count(b"\n")


def _hint(beginning: bytes) -> str:
    if beginning in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "it begins as UTF-16 does: import it with encoding='utf-16'"
    return (
        "import it with the encoding that it was saved in (encoding='gb18030' for Chinese, 'cp1252' or 'latin-1' for "
        "western languages, say)"
    )


def empty(what: str) -> InvalidArgument:
    """Return the error of a file without rows."""
    return InvalidArgument(f"the file {what}", reason="EMPTY_FILE")


def skip_mark(file: BinaryIO) -> int:
    """Skip a byte order mark; return its length."""
    if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
        return len(codecs.BOM_UTF8)
    file.seek(0)
    return 0


def first_line(error: BaseException) -> str:
    """Return what a library's error says first, short enough for a message."""
    return str(error).split("\n", 1)[0][:200]
