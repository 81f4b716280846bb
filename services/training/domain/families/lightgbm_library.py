"""LightGBM, loaded so that it works on a bare machine and weighs little."""

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from services.training.domain.families.absent_libraries import absent

_OPENMP = "libgomp.so.1"
# LightGBM imports these where they are installed, for interfaces of theirs that we do not use: 80 MB and a second.
_NOT_NEEDED = ("sklearn", "pandas", "matplotlib")


def load_lightgbm() -> ModuleType:
    """Return the lightgbm module."""
    if "lightgbm" not in sys.modules:
        preload_openmp()
        with absent(*_NOT_NEEDED):
            import lightgbm  # noqa: F401
    return sys.modules["lightgbm"]


def preload_openmp(system_library: str = _OPENMP) -> None:
    """Load an OpenMP runtime for LightGBM: bare Debian has no libgomp.so.1, torch's wheel brings one.

    By its path and without importing torch, which would cost 170 MB.

    Args:
        system_library: what the machine may have; taken first.
    """
    for library in (system_library, *_bundled()):
        try:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return


def _bundled() -> list[str]:
    spec = find_spec("torch")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    return [str(library) for folder in folders for library in sorted((folder / "lib").glob("libgomp*.so*"))]
