"""Which runs may happen on the thread that reads requests: those of a size that was measured and was short.

Times are those of the processor where the run's own thread does the work: on a busy machine a short run may be put
aside for long, and is short all the same.
"""

# A run shorter than this is quicker done at once than handed to a thread and back (about 60 microseconds, measured),
# and delays nothing else: health checks least of all.
INLINE_SECONDS = 0.001
# A run of a size that was short before and takes this long depends on values: no size of this model is safe.
_UNSTEADY_SECONDS = 0.01
# Texts up to this size in all take no longer than the ones that were measured.
_TEXT_BYTES = 1 << 14
_NEVER = 1 << 62


class RunTimes:
    """The sizes of one form's runs that were short, and those that were long.

    A size that was long once stays long: no mean of short runs makes it short again.
    """

    __slots__ = ("_long_bytes", "_long_rows", "_most_bytes", "_most_rows", "_short_bytes", "_short_rows")

    def __init__(self) -> None:
        self._short_rows, self._short_bytes = -1, _TEXT_BYTES
        self._long_rows = self._long_bytes = _NEVER
        # What is short and not long, of these.
        self._most_rows, self._most_bytes = self._short_rows, self._short_bytes

    def are_short(self, rows: int, text_bytes: int = 0) -> bool:
        """Return whether a run of at least this size was short, and none of at most this size was long.

        Args:
            rows: of the run.
            text_bytes: of its texts; 0 for tensors of numbers, whose form says their size.
        """
        return rows <= self._most_rows and text_bytes <= self._most_bytes

    def learn(self, rows: int, text_bytes: int, seconds: float) -> bool:
        """Take the time of a run; return whether it shows that times depend on values.

        Args:
            rows: of the run.
            text_bytes: of its texts; 0 for tensors of numbers.
            seconds: that it took.
        """
        is_surprise = seconds >= _UNSTEADY_SECONDS and self.are_short(rows, text_bytes)
        if seconds < INLINE_SECONDS:
            self._short_rows = max(self._short_rows, rows)
            self._short_bytes = max(self._short_bytes, text_bytes)
        elif text_bytes > _TEXT_BYTES:
            # It is the texts that are long.
            self._long_bytes = min(self._long_bytes, text_bytes)
        else:
            self._long_rows = min(self._long_rows, rows)
        self._most_rows = min(self._short_rows, self._long_rows - 1)
        self._most_bytes = min(self._short_bytes, self._long_bytes - 1)
        return is_surprise
