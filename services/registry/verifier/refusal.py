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


def is_about_memory(text: str) -> bool:
    """Return whether an error text of ONNX Runtime says that memory ran out."""
    return "bad_alloc" in text or "Failed to allocate memory" in text or "bad allocation" in text


def out_of_memory(what: str) -> Refused:
    """Return the refusal of what took too much memory."""
    return Refused(
        "VERIFIER_OUT_OF_MEMORY",
        f"{what} took more memory than is allowed: bring an example of a small request, or have "
        "LEPTON_VERIFY_MEMORY_BYTES of the registry raised",
    )
