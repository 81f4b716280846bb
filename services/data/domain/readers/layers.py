"""What lies around a text: compression, and lines that are not of the table. Read through in bounded memory."""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, cast

import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.data.domain.readers.rewindable import RewindableFile
from services.data.domain.readers.source import BLOCK_BYTES, OpenFile

_PIECE_BYTES = 1 << 18
# A file of a few kilobytes can unpack to a terabyte: an honest one of text unpacks to some ten times its size.
_LEAST_LIMIT_BYTES = 256 << 20
_MOST_RATIO = 300
_MARKS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
)


def decompressed(open_file: OpenFile, compression: str) -> OpenFile:
    """Return what opens a file as if it were not compressed.

    Args:
        open_file: opens it as it is.
        compression: gzip, bz2, xz, zstd, zip or none; empty: detected by the first bytes.

    Raises:
        InvalidArgument: it is not compressed like this, is damaged, or unpacks to far more than its size.
    """
    kind = compression or _detected(open_file)
    if kind in ("", "none"):
        return open_file
    with open_file() as file:
        size = file.seek(0, io.SEEK_END)
    limit = max(_LEAST_LIMIT_BYTES, size * _MOST_RATIO)
    return lambda: _buffered(lambda: _bounded(open_file, kind, limit))


def without_lines(open_file: OpenFile, skip: int, comment: str, quote: str) -> OpenFile:
    """Return what opens a text with its first lines and its comments as blank lines: places stay where they were.

    Args:
        open_file: opens it, as UTF-8.
        skip: lines at the start.
        comment: begins lines that do not count, outside of quotes; empty for none.
        quote: the quote character; empty for none.
    """
    if not skip and not comment:
        return open_file
    return lambda: _buffered(lambda: _blanked(open_file, skip, comment.encode(), quote.encode()))


def _detected(open_file: OpenFile) -> str:
    with open_file() as file:
        beginning = file.read(6)
    return next((kind for mark, kind in _MARKS.items() if beginning.startswith(mark)), "")


def _bounded(open_file: OpenFile, kind: str, limit: int) -> Iterator[bytes]:
    taken = 0
    try:
        with open_file() as file, _opened(file, kind) as plain:
            while piece := plain.read(_PIECE_BYTES):
                taken += len(piece)
                if taken > limit:
                    raise InvalidArgument(
                        f"the file unpacks to more than {limit:,} bytes, {_MOST_RATIO} times its size: unpack it and "
                        "import it as it is",
                        reason="DECOMPRESSED_TOO_LARGE",
                    )
                yield bytes(piece)
    except _BROKEN as error:
        raise InvalidArgument(f"the file is no whole {kind} file, or is damaged", reason="BAD_COMPRESSION") from error


def _opened(file: BinaryIO, kind: str) -> BinaryIO:
    if kind == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if kind == "bz2":
        return cast(BinaryIO, bz2.BZ2File(file))
    if kind == "xz":
        return cast(BinaryIO, lzma.LZMAFile(file))
    if kind == "zstd":
        return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    archive = zipfile.ZipFile(file)
    names = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_of_system(entry.filename)]
    if len(names) != 1:
        raise InvalidArgument(
            f"the zip archive holds {len(names):,} files: expected one; import them one by one", reason="SEVERAL_FILES"
        )
    if names[0].flag_bits & 1:
        raise InvalidArgument("the zip archive is encrypted: unpack it first", reason="BAD_COMPRESSION")
    return cast(BinaryIO, archive.open(names[0]))


def _is_of_system(name: str) -> bool:
    return any(part.startswith(".") or part in ("__MACOSX", "Thumbs.db") for part in PurePosixPath(name).parts)


def _blanked(open_file: OpenFile, skip: int, comment: bytes, quote: bytes) -> Iterator[bytes]:
    is_quoted = False
    is_begun = False
    number = 0
    with open_file() as file:
        while line := file.readline(BLOCK_BYTES):
            # The rest of a line that is longer than a block is no line of its own.
            number += not is_begun
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 and not is_begun else line
            is_blank = number <= skip or (
                bool(comment) and not is_quoted and not is_begun and content.startswith(comment)
            )
            is_begun = not line.endswith(b"\n")
            if is_blank:
                while is_begun and (rest := file.readline(BLOCK_BYTES)):
                    is_begun = not rest.endswith(b"\n")
                yield b"\n"
                continue
            if quote and content.count(quote) % 2:
                is_quoted = not is_quoted
            yield line


def _buffered(pieces: Callable[[], Iterator[bytes]]) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Pieces(pieces), _PIECE_BYTES))


class _Pieces(RewindableFile):
    """A file over pieces that are made while it is read. Going back begins again.

    Args:
        pieces: makes them from the start.
    """

    def __init__(self, pieces: Callable[[], Iterator[bytes]]) -> None:
        super().__init__()
        self._make = pieces
        self._restart()

    def _restart(self) -> None:
        self._pieces = self._make()

    def _next_piece(self) -> bytes | None:
        return next(self._pieces, None)
