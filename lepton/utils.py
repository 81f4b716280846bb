"""`load_data`: a file becomes a dataset version on the platform and a DataFrame here."""

from pathlib import Path
from typing import Unpack

from lepton.connection import Connection
from lepton.datasets import Dataset
from lepton.frames import Frame, with_lineage
from lepton.reading import ReadOptions

__all__ = ["load_data"]


def load_data(
    path: str | Path,
    *,
    name: str | None = None,
    label: str = "",
    encoding: str = "",
    connection: Connection | None = None,
    **options: Unpack[ReadOptions],
) -> Frame:
    """Upload a file as it is, and return its rows as a DataFrame that keeps its lineage.

    The formats are those of `Dataset.import_file`.

    Args:
        path: the file.
        name: the dataset's id; by default made from the file's name.
        label: the column that models predict by default.
        encoding: how a CSV or JSON Lines file spells its characters: 'gb18030', 'cp1252', 'utf-16'; empty for UTF-8.
        connection: the platform; by default the one in use.
        options: how the file is read, where the defaults do not fit: see `lepton.reading.ReadOptions`.

    Raises:
        FileNotFoundError: there is no such file.
        InvalidArgument: the platform cannot read the file; the message says where and why.
        PlatformNotRunning: no platform runs here.
    """
    dataset = Dataset.import_file(path, name=name, label=label, encoding=encoding, connection=connection, **options)
    return with_lineage(dataset.to_pandas(), dataset.ref, label)
