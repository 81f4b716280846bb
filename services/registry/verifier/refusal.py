"""Why a model is refused, as the child says it."""


class Refused(Exception):
    """The model cannot be taken.

    Args:
        reason: stable.
        message: for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
