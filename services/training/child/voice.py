"""What a job says while it runs, and whether it still may."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from services.training.domain.families.model import Stopped

Tell = Callable[[Mapping[str, Any]], None]
# As the contract has it.
_LONGEST_MESSAGE = 1024
_MOST_WARNINGS = 32


class Voice:
    """Tells the worker how far a job is; to one that is to stop, it says so instead.

    Args:
        tell: gives the worker one message.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._said = 0.0, ""
        self._warnings: list[str] = []
        self.is_stopped = False

    def say(self, progress: float, message: str, step: int = 0, metrics: Mapping[str, float] | None = None) -> None:
        """Say how far the job is, 0 to 1; with a step, what was measured there.

        Raises:
            Stopped: the job is to stop.
        """
        self.check_stopped()
        self._said = progress, message
        # What is no number has no place in JSON, nor on a curve.
        numbers = {name: value for name, value in (metrics or {}).items() if math.isfinite(value)}
        listed = [{"name": name, "value": value} for name, value in numbers.items()]
        self._tell({"progress": progress, "message": message[:_LONGEST_MESSAGE], "step": step, "metrics": listed})

    def say_here(self, message: str) -> None:
        """Say something where the job stands.

        Raises:
            Stopped: the job is to stop.
        """
        self.say(self._said[0], message)

    def add(self, more: str) -> None:
        """Say more of what was said last. Stops nothing: a network's fit keeps a checkpoint before it ends."""
        progress, message = self._said
        told = f"{message}; {more}"[:_LONGEST_MESSAGE]
        self._tell({"progress": progress, "message": told, "step": 0, "metrics": []})

    def warn(self, *warnings: str) -> None:
        """Warn of something, which stays with the job."""
        if warnings:
            self._warnings = [*self._warnings, *warnings][:_MOST_WARNINGS]
            self._tell({"warnings": self._warnings})

    def stop(self, *_: object) -> None:
        """Have the job stop where it next asks."""
        self.is_stopped = True

    def check_stopped(self) -> None:
        """Check that the job may go on.

        Raises:
            Stopped: it may not.
        """
        if self.is_stopped:
            raise Stopped
