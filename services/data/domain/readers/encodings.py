"""Text in other encodings than UTF-8: read as what it is said to be, and handed on as UTF-8."""

import codecs
import io
import re
from typing import BinaryIO, cast

from servicekit.errors import InvalidArgument
from services.data.domain.readers.rewindable import RewindableFile
from services.data.domain.readers.source import BLOCK_BYTES, OpenFile

_UTF8 = ("", "utf-8", "utf-8-sig")
# Python knows some that are no encodings of files.
_OF_FILES = re.compile(
    r"ascii|utf-(8|16|32)(-\w+)?|iso8859.*|cp\d+|gb\w+|big5\w*|euc_\w+|shift_jis\w*|iso2022_\w+|koi8.*|mac.*"
)
_PIECE_BYTES = 1 << 18


def as_utf8(open_file: OpenFile, encoding: str) -> OpenFile:
    """Return what opens a file as if it were UTF-8.

    Args:
        open_file: opens it as it is.
        encoding: its own, by one of Python's names; empty for UTF-8.

    Raises:
        InvalidArgument: the encoding is unknown, or the file is not in it; the message says where.
    """
    name = _known(encoding)
    if name in _UTF8:
        return open_file
    _check(open_file, name)
    return lambda: cast(BinaryIO, io.BufferedReader(_Transcoded(open_file, name), BLOCK_BYTES))


def _known(encoding: str) -> str:
    if not encoding:
        return ""
    try:
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        name = ""
    if not _OF_FILES.fullmatch(name):
        raise InvalidArgument(
            f"unknown encoding {encoding[:40]!r}: expected utf-8, utf-16, gb18030, big5, shift_jis, euc_kr, latin-1, "
            "cp1252 or another of Python's names",
            reason="UNKNOWN_ENCODING",
        )
    return name


def _check(open_file: OpenFile, name: str) -> None:
    """Check that a file can be decoded throughout, before any of it is parsed."""
    decoder = codecs.getincrementaldecoder(name)()
    position, lines = 0, 1
    with open_file() as file:
        while True:
            piece = file.read(_PIECE_BYTES)
            pending = decoder.getstate()[0]
            # What the last piece left open is seen again, so that places are counted from where it began.
            held = len(pending) if isinstance(pending, bytes) else 0
            try:
                lines += decoder.decode(piece, final=not piece).count("\n")
            except UnicodeDecodeError as error:
                lines += error.object[: error.start].decode(name, errors="ignore").count("\n")
                place = position - held + error.start
                raise InvalidArgument(
                    f"the file is not {name}: byte {place:,} (counted from 0), on line {lines:,}, cannot be read; give "
                    "the encoding that it was saved in, or save it as UTF-8",
                    reason="WRONG_ENCODING",
                    metadata={"byte": str(place), "line": str(lines)},
                ) from error
            if not piece:
                return
            position += len(piece)


class _Transcoded(RewindableFile):
    """A file's text as UTF-8. Going back begins again, for characters have no places of their own.

    Args:
        open_file: opens it as it is.
        encoding: its own.
    """

    def __init__(self, open_file: OpenFile, encoding: str) -> None:
        super().__init__()
        self._open_file = open_file
        self._encoding = encoding
        self._file: BinaryIO | None = None
        self._restart()

    def _restart(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._open_file()
        self._decoder = codecs.getincrementaldecoder(self._encoding)()
        self._is_read = False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _next_piece(self) -> bytes | None:
        if self._is_read:
            return None
        assert self._file is not None  # opened from the start
        piece = self._file.read(_PIECE_BYTES)
        self._is_read = not piece
        return self._decoder.decode(piece, final=not piece).encode()
