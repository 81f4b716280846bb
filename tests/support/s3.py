"""Object stores for tests: a local folder, and S3 as moto's server speaks it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer

_ACCESS_KEY = "lepton-test"


@dataclass(frozen=True)
class ObjectsEnvironment:
    """The part of StatefulSettings that names an object store, as keyword arguments.

    Args:
        objects_url: file:///PATH or s3://bucket/prefix.
        objects_endpoint: the S3 server's address; None for a folder.
    """

    objects_url: str
    objects_endpoint: str | None = None

    def as_settings(self) -> dict[str, str]:
        """Return the fields of StatefulSettings."""
        if self.objects_endpoint is None:
            return {"objects_url": self.objects_url}
        return {
            "objects_url": self.objects_url,
            "objects_endpoint": self.objects_endpoint,
            "objects_access_key_id": _ACCESS_KEY,
            "objects_secret_access_key": _ACCESS_KEY,
        }


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a moto server that the session shares."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def local_objects(tmp_path: Path) -> ObjectsEnvironment:
    """A local folder, not made yet."""
    return ObjectsEnvironment((tmp_path / "objects").as_uri())


@pytest.fixture
def s3_objects(s3_endpoint: str) -> ObjectsEnvironment:
    """A fresh bucket."""
    bucket = f"lepton-{uuid4().hex}"
    client = boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=_ACCESS_KEY,
        aws_secret_access_key=_ACCESS_KEY,
    )
    client.create_bucket(Bucket=bucket)
    client.close()
    return ObjectsEnvironment(f"s3://{bucket}/some/prefix", s3_endpoint)


@pytest.fixture(params=["local", "s3"])
def objects_environment(request: pytest.FixtureRequest) -> ObjectsEnvironment:
    """A fresh object store, once of each kind: what an adapter's contract suite runs on."""
    environment: ObjectsEnvironment = request.getfixturevalue(f"{request.param}_objects")
    return environment
