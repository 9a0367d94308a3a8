"""An index in Azure's own emulator: `npm install -g azurite` puts it on the path."""

import base64
import hashlib
import hmac
import http.client
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import lookalike
from helpers.spark_servers import free_port, running
from lookalike.images.synthetic import DrawnCollection
from lookalike.system.store import open_store

EMULATOR = shutil.which("azurite-blob")
pytestmark = [
    pytest.mark.long,  # starts Node
    pytest.mark.skipif(EMULATOR is None, reason="azurite-blob is not installed"),
]
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The emulator's account and key, which are public."""


def make_container(port: int, name: str) -> None:
    """Make a container, as obstore cannot."""
    now = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": now, "x-ms-version": "2021-08-06"}
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    named = "".join(f"{name}:{value}\n" for name, value in headers.items())
    signed = f"PUT{12 * chr(10)}{named}{resource}".encode()
    digest = hmac.new(base64.b64decode(KEY), signed, hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    client = http.client.HTTPConnection("127.0.0.1", port)
    client.request(
        "PUT",
        f"/{ACCOUNT}/{name}?restype=container",
        headers={**headers, "Content-Length": "0"},
    )
    assert client.getresponse().status == 201


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a container of the emulator."""
    port = free_port()
    command: list[object] = [EMULATOR, "--silent", "--inMemoryPersistence", "--skipApiVersionCheck"]
    command += ["--blobPort", port]
    with running(command, tmp_path / "azurite.log", port, os.environ):
        make_container(port, "box")
        for name, value in {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_ENDPOINT": f"http://127.0.0.1:{port}/{ACCOUNT}",
            "AZURE_ALLOW_HTTP": "true",
        }.items():
            monkeypatch.setenv(name, value)
        yield "az://box"


def test_an_index_in_azure(
    container: str, drawn: DrawnCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = open_store(f"{container}/photos")
    for photo in sorted(drawn.photos.iterdir())[:12]:
        photos.put(photo.name, photo.read_bytes())
    uri = f"{container}/photos.index"
    made = lookalike.create_index(f"{container}/photos", uri, precision="f32", spark=False)
    assert (made.report and made.report.images) == 12
    own = pa.table({"key": list(range(9)), "v": list(np.eye(9, dtype=np.float32))})
    index = lookalike.create_index(
        own, f"{container}/own.index", embedding_column="v", id_column="key"
    )
    index.remove(3)
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "second"))
    opened = lookalike.open_index(f"{container}/own.index")
    assert (len(opened), opened.check().ok, opened.vacuum(0).files) == (8, True, 1)
    found = lookalike.open_index(uri).search(photos.get(sorted(drawn.photos.iterdir())[0].name))
    assert found[0].distance < 1e-3
