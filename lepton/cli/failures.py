"""Errors of any kind as the one line that a command prints."""

import importlib.util

from lepton import errors


def one_line(error: BaseException) -> str:
    """Return what a command prints of an error: what failed, on what, and how to see more of what is unexpected."""
    if isinstance(error, errors.LeptonError):
        return error.message
    if isinstance(error, KeyError):
        return str(error.args[-1]) if error.args else "KeyError"
    if isinstance(error, ModuleNotFoundError) and importlib.util.find_spec("nats") is None:
        return f"this command needs the whole platform ({error.name} is missing): pip install 'lepton[platform]'"
    if isinstance(error, OSError) and error.strerror:
        # `[Errno 2] No such file or directory: 'x'` without the number.
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    text = f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__
    return f"{text} (set LEPTON_DEBUG=1 to see where)"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
