"""Environments of other people's servers: made at first use, kept in the cache."""

import hashlib
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
_REQUIREMENTS = Path(__file__).parent / "requirements"
# Not the interpreter that runs us: PyTriton brings a build for one Python, which is Debian 12's own.
_PYTHON = "/usr/bin/python3"


class EnvironmentFailed(Exception):
    """It could not be made here; the message says why."""


def environment(cache: Path, name: str) -> Path:
    """Return the interpreter of an environment, made by its requirements where it lacks or is out of date.

    Args:
        cache: the folder of environments.
        name: of a file in requirements/.

    Raises:
        EnvironmentFailed: pip failed.
    """
    requirements = _REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    folder = cache / "environments" / name
    stamp = folder / "installed"
    python = folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == digest:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _run([_python(), "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)])
    stamp.write_text(digest)
    return python


def _python() -> str:
    found = _PYTHON if Path(_PYTHON).exists() else shutil.which("python3")
    if not found:
        raise EnvironmentFailed("there is no python3")
    return found


def _run(command: list[str]) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        lines = (ran.stderr or ran.stdout).strip().splitlines()
        raise EnvironmentFailed(f"{' '.join(command[:4])}: {lines[-1] if lines else ran.returncode}")
