"""Files whose bytes are computed while they are read."""

import io
from abc import abstractmethod
from typing import cast


class RewindableFile(io.RawIOBase):
    """A file of computed pieces. Seeking backward computes them again from the start.

    A subclass calls `_restart` once before the first read.
    """

    def __init__(self) -> None:
        self._rest = memoryview(b"")
        self._position = 0

    @abstractmethod
    def _restart(self) -> None:
        """Make the next piece the first one."""

    @abstractmethod
    def _next_piece(self) -> bytes | None:
        """Return the next piece; None at the end."""

    def readable(self) -> bool:
        """Return True: it can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: it can seek."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position; return it. It ends at the file's end.

        Raises:
            UnsupportedOperation: it counts from the end, which is unknown.
        """
        goal = offset + (self._position if whence == io.SEEK_CUR else 0)
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the length of a computed file is unknown")
        if goal < self._position:
            self._restart()
            self._rest, self._position = memoryview(b""), 0
        while self._position < goal and self._take(goal - self._position):
            pass
        return self._position

    def readinto(self, buffer: object) -> int:
        """Read into a buffer; return how many bytes were read, 0 at the end."""
        view = memoryview(cast(bytearray, buffer))
        content = self._take(len(view))
        view[: len(content)] = content
        return len(content)

    def _take(self, count: int) -> memoryview:
        while not self._rest and (piece := self._next_piece()) is not None:
            self._rest = memoryview(piece)
        taken, self._rest = self._rest[:count], self._rest[count:]
        self._position += len(taken)
        return taken
