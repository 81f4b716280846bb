"""Where the embedded platform keeps everything: one folder, `LEPTON_HOME` (default `~/.lepton`)."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """The layout of the folder.

    Args:
        root: the folder itself.
    """

    root: Path

    @classmethod
    def find(cls) -> "Home":
        """Return the folder that LEPTON_HOME names, else `~/.lepton`."""
        return cls(Path(os.environ.get("LEPTON_HOME") or Path.home() / ".lepton").expanduser().absolute())

    @property
    def credentials(self) -> Path:
        """Certificates, keys and the first token; written as a whole or not at all."""
        return self.root / "credentials"

    @property
    def ca(self) -> Path:
        """PEM file of the platform's certificate authority."""
        return self.credentials / "ca.pem"

    @property
    def token(self) -> Path:
        """File with the first admin token, mode 0600."""
        return self.credentials / "token"

    @property
    def databases(self) -> Path:
        """One SQLite file a service."""
        return self.root / "databases"

    @property
    def objects(self) -> Path:
        """The object store's folder."""
        return self.root / "objects"

    @property
    def nats(self) -> Path:
        """nats-server's configuration and JetStream's files."""
        return self.root / "nats"

    @property
    def logs(self) -> Path:
        """One log file a process."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """What is true only while the platform runs: lock and state."""
        return self.root / "run"

    @property
    def state(self) -> Path:
        """JSON of the running processes, written by the supervisor."""
        return self.run / "state.json"

    def make(self) -> None:
        """Create the folders, for the owner alone."""
        for folder in (self.root, self.databases, self.objects, self.nats, self.logs, self.run):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
