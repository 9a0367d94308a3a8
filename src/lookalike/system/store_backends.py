"""Connections to stores: one for each store, process and environment."""

import configparser
import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.system.extras import is_installed, require
from lookalike.system.uris import split_uri

if TYPE_CHECKING:
    from pyarrow import fs

_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 60  # for a request, with its body
_RETRY_SECONDS = 120  # for a request and its repetitions; credentials have to last as long
_MAX_RETRIES = 6
_MAX_STORES = 64
_PART_BYTES = 2**22  # of a file that is read in parts
_CLIENT_SWITCHES = {"allow_http", "allow_invalid_certificates"}
_CLIENT_OPTIONS = (
    *_CLIENT_SWITCHES,
    *("connect_timeout", "timeout", "read_timeout", "proxy_url", "proxy_ca_certificate"),
    *("proxy_excludes", "pool_idle_timeout", "user_agent"),
)
_SETTINGS = ("AWS_", "AZURE_", "GOOGLE_", "HADOOP_", "CLASSPATH", "HOME")


def backend(root: str) -> Any:
    """Return the connection to the store with a root such as `s3://bucket`.

    It is kept until the environment changes, which may have new credentials.
    """
    settings = tuple(
        sorted((name, value) for name, value in os.environ.items() if name.startswith(_SETTINGS))
    )
    return _connect(root, settings)


@lru_cache(_MAX_STORES)
def _connect(root: str, settings: tuple[tuple[str, str], ...]) -> Any:
    scheme, host, _ = split_uri(f"{root}/")
    if scheme == "hdfs":
        return ArrowStore(_hadoop(root))
    require(f"reading {root}", "obstore")
    from obstore import store

    if scheme == "memory":
        return _memory(host)
    if scheme == "file":
        return _WithReader(store.LocalStore("/"))
    options: Any = {
        "client_options": {
            "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
            "timeout": timedelta(seconds=_ANSWER_SECONDS),
            **_client_options(scheme),
        },
        "retry_config": {
            "max_retries": _MAX_RETRIES,
            "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
        },
    }
    if scheme == "s3":
        return _WithReader(store.S3Store(host, **_profile(), **options))
    if scheme == "gs":
        return _WithReader(store.GCSStore(host, **options))
    if scheme == "abfss":
        return _WithReader(store.AzureStore.from_url(f"abfss://{host}/", **options))
    return _WithReader(store.AzureStore(host, **options))


def _client_options(scheme: str) -> dict[str, Any]:
    """Return the options of HTTP in the environment: given ones would replace them all."""
    before = {"s3": "AWS_", "gs": "GOOGLE_"}.get(scheme, "AZURE_")
    found: dict[str, Any] = {
        name: os.environ[before + name.upper()]
        for name in _CLIENT_OPTIONS
        if before + name.upper() in os.environ
    }
    for name in _CLIENT_SWITCHES & found.keys():
        found[name] = found[name].lower() in ("1", "true", "yes", "on", "y")
    return found


@lru_cache(_MAX_STORES)
def _memory(name: str) -> Any:
    from obstore.store import MemoryStore

    return _WithReader(MemoryStore())


class _WithReader:
    """A store of obstore, with its functions as methods."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def open_reader(self, key: str, **options: Any) -> Any:
        """Open an object for reading at any place."""
        import obstore

        return obstore.open_reader(self._store, key, **options)


def _profile() -> dict[str, Any]:
    """Return the options of S3 that stand in the files of the AWS tools, if any does.

    object_store reads the environment, and asks the container and the machine, but reads no files.
    boto3 also knows roles and single sign-on, where it is installed.
    """
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return {}
    if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("true", "1"):
        return {}
    files = [
        Path(os.environ.get(name) or Path.home() / ".aws" / default)
        for name, default in (
            ("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            ("AWS_CONFIG_FILE", "config"),
        )
    ]
    if not any(file.is_file() for file in files):
        return {}
    if is_installed("boto3"):
        from boto3 import Session
        from obstore.auth.boto3 import Boto3CredentialProvider

        session = Session()
        if session.get_credentials() is not None:
            return {"credential_provider": Boto3CredentialProvider(session)}
    name = os.environ.get("AWS_PROFILE", "default")
    found: dict[str, str] = {}
    sections = (name, name if name == "default" else f"profile {name}")
    for file, section in zip(files, sections, strict=True):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file)
        except configparser.Error:
            raise LookalikeError(
                f"{file} is damaged: see to it, or set AWS_ACCESS_KEY_ID"
            ) from None
        if parser.has_section(section):
            found |= dict(parser.items(section))
    known = {
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
    }
    options = {ours: found[theirs] for theirs, ours in known.items() if theirs in found}
    if "region" in found and not any(map(os.environ.get, ("AWS_REGION", "AWS_DEFAULT_REGION"))):
        options["region"] = found["region"]
    return options


def _hadoop(root: str) -> "fs.FileSystem":
    from pyarrow import fs

    try:
        return fs.FileSystem.from_uri(f"{root}/")[0]
    except (OSError, pa.ArrowException) as error:
        first = (str(error).splitlines() or [""])[0]
        raise LookalikeError(
            f"{root} cannot be opened ({first[:200]}): set HADOOP_HOME to a Hadoop with libhdfs, "
            "and CLASSPATH to the output of `hadoop classpath --glob`"
        ) from None


class ArrowStore:
    """A file system of pyarrow with the methods of a store of obstore; for HDFS."""

    def __init__(self, files: "fs.FileSystem") -> None:
        self._files = files

    def list(
        self, key: str | None, *, chunk_size: int, return_arrow: bool, offset: str = ""
    ) -> Iterator[Any]:
        """Yield the files below a key, a folder in memory at a time."""
        from pyarrow import fs

        held: list[fs.FileInfo] = []
        waiting = [f"/{key or ''}"]
        while waiting:
            folder = waiting.pop()
            about = self._files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
            waiting += [one.path for one in about if one.type == fs.FileType.Directory]
            files = [one for one in about if one.type == fs.FileType.File]
            held += [one for one in files if one.path.lstrip("/") > offset]
            while len(held) >= chunk_size:
                yield _as_listed(held[:chunk_size])
                del held[:chunk_size]
        if held:
            yield _as_listed(held)

    def list_with_delimiter(self, key: str | None, *, return_arrow: bool) -> dict[str, Any]:
        """Return the folders and the files of one folder."""
        from pyarrow import fs

        about = self._files.get_file_info(fs.FileSelector(f"/{key or ''}", allow_not_found=True))
        folders = [one.path.lstrip("/") for one in about if one.type == fs.FileType.Directory]
        files = [one for one in about if one.type == fs.FileType.File]
        return {
            "common_prefixes": folders,
            "objects": pa.Table.from_batches([_as_listed(files)]),
        }

    def head(self, key: str) -> dict[str, Any]:
        """Return size and time of a file."""
        from pyarrow import fs

        about = self._files.get_file_info(f"/{key}")
        if about.type != fs.FileType.File:
            raise FileNotFoundError(key)
        return {"size": about.size, "last_modified": about.mtime, "e_tag": None}

    def get(self, key: str) -> Any:
        """Return a file, for its `bytes`."""
        return _Content(self._files, f"/{key}")

    def get_range(self, key: str, *, start: int, end: int) -> bytes:
        """Return a part of a file."""
        return self.get_ranges(key, starts=[start], ends=[end])[0]

    def get_ranges(self, key: str, *, starts: Sequence[int], ends: Sequence[int]) -> "_Parts":
        """Return parts of a file."""
        with self._files.open_input_file(f"/{key}") as file:
            return [
                bytes(file.read_at(end - start, start))
                for start, end in zip(starts, ends, strict=True)
            ]

    def open_reader(self, key: str, *, buffer_size: int) -> Any:
        """Open a file for reading at any place."""
        return _Sized(self._files.open_input_file(f"/{key}"))

    def put(self, key: str, content: bytes | Path, *, mode: str = "overwrite") -> None:
        """Write a file."""
        if mode == "create":
            raise NotImplementedError("conditional puts are not supported")
        self._files.create_dir(f"/{key}".rpartition("/")[0] or "/")
        with self._files.open_output_stream(f"/{key}") as file:
            if isinstance(content, bytes):
                file.write(content)
                return
            with content.open("rb") as opened:
                shutil.copyfileobj(opened, file)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete files."""
        for key in keys:
            self._files.delete_file(f"/{key}")


_Part = bytes
_Parts = list[bytes]


class _Content:
    """A file that is read when its `bytes` are taken."""

    def __init__(self, files: "fs.FileSystem", path: str) -> None:
        self._files, self._path = files, path
        self.meta = {"size": files.get_file_info(path).size or 0}

    def bytes(self) -> bytes:
        with self._files.open_input_file(self._path) as file:
            return bytes(file.read())

    def stream(self) -> "Iterator[_Part]":
        """Yield the content in parts."""
        with self._files.open_input_stream(self._path) as file:
            while part := file.read(_PART_BYTES):
                yield part


class _Sized:
    """A file of pyarrow whose `size` is a number, as that of obstore's readers."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file, self.size = file, file.size()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _as_listed(files: "Sequence[fs.FileInfo]") -> pa.RecordBatch:
    columns = {
        "path": pa.array([one.path.lstrip("/") for one in files], pa.string()),
        "last_modified": pa.array([one.mtime_ns for one in files], pa.timestamp("ns", "UTC")),
        "size": pa.array([one.size for one in files], pa.int64()),
        "e_tag": pa.nulls(len(files), pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns)
