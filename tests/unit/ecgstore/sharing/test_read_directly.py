"""A version in a share is a plain Zarr folder: others read it where it stands, without us and without a warning."""

from __future__ import annotations

import http.server
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from dask import array
from local_server import LocalServer, QuietHandler
from shares import S3

from ecgstore import open_store
from ecgstore.sharing import push
from ecgstore.storage import manifest


@pytest.fixture(scope="module")
def share(mini_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share") / "ptbxl"
    push(mini_store, f"{folder}@v1")
    return folder


@pytest.fixture(scope="module")
def counts_lt(mini_store: Path) -> Any:
    return open_store(mini_store).to_dask(counts=True).compute()


def version(mini_store: Path) -> str:
    return f"versions/{manifest.load(mini_store).fingerprint}"


class _Files(QuietHandler, http.server.SimpleHTTPRequestHandler):
    """The files of a folder; no ranges, no listings."""

    def list_directory(self, path: Any) -> None:
        self.send_error(404)


@pytest.fixture
def address(share: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The share behind a web server."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    server = LocalServer(partial(_Files, directory=str(share)))  # type: ignore[arg-type]
    yield server.address
    server.shutdown()
    server.server_close()


def test_a_folder_is_read_by_zarr_dask_and_xarray(share: Path, mini_store: Path, counts_lt: Any) -> None:
    signal = share / version(mini_store) / "signal"
    np.testing.assert_array_equal(zarr.open_array(signal, mode="r")[:], counts_lt)
    np.testing.assert_array_equal(array.from_zarr(str(signal)).compute(), counts_lt)
    np.testing.assert_array_equal(xarray.open_zarr(share / version(mini_store))["signal"].values, counts_lt)


def test_a_bucket_is_read_by_zarr_dask_and_xarray(at_s3: S3, mini_store: Path, counts_lt: Any) -> None:
    from obstore.store import S3Store

    url = at_s3.bucket()
    push(mini_store, f"{url}/ptbxl@v1")

    def there(folder: str) -> Any:
        objects = S3Store(
            url.removeprefix("s3://"),
            prefix=f"ptbxl/{version(mini_store)}{folder}",
            client_options={"allow_http": True},
        )
        return zarr.storage.ObjectStore(objects, read_only=True)

    signal = zarr.open_array(there("/signal"), mode="r")
    np.testing.assert_array_equal(signal[:], counts_lt)
    np.testing.assert_array_equal(array.from_zarr(signal).compute(), counts_lt)
    np.testing.assert_array_equal(xarray.open_zarr(there(""))["signal"].values, counts_lt)


@pytest.mark.parametrize("where", ["file", "http", "s3"])
def test_tensorstore_reads_it(
    where: str, request: pytest.FixtureRequest, share: Path, mini_store: Path, counts_lt: Any
) -> None:
    tensorstore = pytest.importorskip("tensorstore", reason="TensorStore is no dependency: pip install tensorstore")
    path = f"{version(mini_store)}/signal/"
    if where == "file":
        kvstore = {"driver": "file", "path": f"{share}/{path}"}
    elif where == "http":
        kvstore = {"driver": "http", "base_url": request.getfixturevalue("address"), "path": f"/{path}"}
    else:
        s3 = request.getfixturevalue("at_s3")
        url = s3.bucket()
        push(mini_store, f"{url}/ptbxl@v1")
        bucket = url.removeprefix("s3://")
        about = {"endpoint": s3.address, "aws_region": "us-east-1", "bucket": bucket}
        kvstore = {"driver": "s3", "path": f"ptbxl/{path}", **about}
    signal = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True, open=True).result()
    np.testing.assert_array_equal(signal[:].read().result(), counts_lt)
