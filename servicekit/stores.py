"""The object stores behind encrypted objects: a local folder, S3, GCS or Azure by URL, and what their errors mean."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from obstore.store import LocalStore, ObjectStore, S3Store, from_url

from servicekit.errors import LeptonError, ResourceExhausted, Unavailable
from servicekit.settings import StatefulSettings

# A store that is away must not hold a call for the minutes that are the library's own default.
_RETRIES: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=15)}
# "No space left", "disk quota exceeded" and "file too large", as the system says them.
_FULL = ("os error 28", "os error 122", "os error 27", "No space left")


def open_store(settings: StatefulSettings) -> ObjectStore:
    """Return the object store that the settings name, making a local folder where it lacks."""
    url = urlsplit(settings.objects_url)
    if url.scheme == "file":
        folder = Path(unquote(url.path))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return LocalStore(folder)
    if url.scheme == "s3":
        return S3Store(url.netloc, prefix=url.path.strip("/") or None, retry_config=_RETRIES, **_s3_options(settings))
    return from_url(settings.objects_url, retry_config=_RETRIES)


def make_durable(store: ObjectStore, path: str) -> None:
    """Return once an object would outlive a power cut: the local folder's rename alone does not see to that. Blocks."""
    if not isinstance(store, LocalStore) or store.prefix is None:
        return
    root = Path(store.prefix)
    for target in (root / path, *(root / part for part in Path(path).parents)):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(store: ObjectStore, prefix: str, before: datetime) -> int:
    """Delete what uploads cut by a kill left in a local folder, where lists do not show it; return how many. Blocks.

    On S3 and its like, unfinished uploads are the bucket's lifecycle rule to end.

    Args:
        store: any.
        prefix: where to look.
        before: spare what was written since.
    """
    if not isinstance(store, LocalStore) or store.prefix is None:
        return 0
    # The library writes NAME#1, and renames it at the end; our own names have no such sign.
    unfinished = [
        path
        for path in (Path(store.prefix) / prefix).rglob("*#*")
        if path.is_file() and path.stat().st_mtime < before.timestamp()
    ]
    for path in unfinished:
        path.unlink(missing_ok=True)
    return len(unfinished)


def translated(error: Exception) -> LeptonError:
    """Return what a store's error means to a caller."""
    if any(sign in str(error) for sign in _FULL):
        return ResourceExhausted("the object store's disk is full: nothing was stored", reason="DISK_FULL")
    return Unavailable(f"the object store does not answer: {type(error).__name__}", reason="OBJECT_STORE_AWAY")


def _s3_options(settings: StatefulSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"region": settings.objects_region}
    if settings.objects_endpoint:
        options["endpoint"] = settings.objects_endpoint
        options["client_options"] = {"allow_http": settings.objects_endpoint.startswith("http://")}
    if settings.objects_access_key_id and settings.objects_secret_access_key:
        options["access_key_id"] = settings.objects_access_key_id.get_secret_value()
        options["secret_access_key"] = settings.objects_secret_access_key.get_secret_value()
    return options
