"""Archives of images: tar shards as img2dataset and webdataset write them, and zip files.

Nothing is unpacked. A member is known by its name, which is only looked up among the names of its
archive and never used as a path; so a name like `../../x.jpg` leads nowhere.
"""

import json
import os
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from lookalike.errors import ImageError, LookalikeError
from lookalike.images.decoding.raster import MAX_BYTES
from lookalike.images.inputs.file_opening import (
    open_file,
    read_part,
    reasons_of_objects,
    size_and_time,
)
from lookalike.images.inputs.file_types import ending, is_image
from lookalike.images.inputs.source import Source, decode_path, encode_path, full_path
from lookalike.system.store import StoreError

_ENDINGS = (".tar", ".zip")
_COMPANIONS = (".json", ".txt", ".cls")
_MAX_LABEL_BYTES = 2**20  # of a member with labels
_MAX_MEMBERS = 1_000_000  # of an archive: their names are held in memory
_MAX_KEPT_MEMBERS = 1_000_000  # of the archives in memory: 400 MB
_ROWS_OF_ARCHIVE = 10  # what an archive takes, in members
_BLOCK = 512  # of a tar
_ZIP_HEADER = struct.Struct("<4s5H3I2H")  # before each member
_MAX_NAME_BYTES = 1024  # of a member, with what follows its name; else it is read twice
_TAR, _ENCRYPTED = -1, -2  # ways of packing, beside those of zip


def is_shard(name: str) -> bool:
    """Tell by its name whether a file is an archive that can be read as it is."""
    return ending(name) in _ENDINGS and not os.path.basename(name).startswith((".", "_"))


def check_label_column(column: str | None) -> None:
    """Raise `LookalikeError` unless labels can come from there."""
    if column is None or column in ("cls", "txt"):
        return
    kind, _, name = column.partition(".")
    if kind != "json" or not name:
        raise LookalikeError(
            f"no labels {column!r} in archives: set `label_column` to cls, txt or json.FIELD"
        )


class Member(NamedTuple):
    """Where a member lies: for a zip the offset is that of its header, and it may be packed."""

    offset: int
    size: int
    packed: int = 0
    method: int = _TAR
    crc: int = 0


@dataclass(frozen=True)
class Directory:
    """The members of an archive.

    Attributes
    ----------
    images
        Where each image lies.
    labels
        Labels by the key of an image: its name up to the first dot of its last part.
    others
        The endings of members that are no images, with their number.
    problem
        Why the archive cannot be read, from some place on; None if it can.

    """

    images: dict[str, Member] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    problem: str | None = None

    def label_of(self, name: str) -> str | None:
        """Return the label of an image."""
        return self.labels.get(_key(name))


def read_directory(place: str, label_column: str | None = None) -> Directory:
    """Read the names in an archive, and labels.

    What is whole before a damaged place counts. Raises `StoreError` if the store of the archive
    fails.

    Parameters
    ----------
    place
        A path or URI.
    label_column
        "cls", "txt" or "json.FIELD": the members that hold the labels.

    """
    images: dict[str, Member] = {}
    labels: dict[str, str] = {}
    others: dict[str, int] = {}
    problem = None
    suffix = f".{label_column.partition('.')[0]}" if label_column else None
    try:
        with open_file(place) as file:
            members = _tar_members if ending(place) == ".tar" else _zip_members
            for name, member, read in members(file):
                if is_image(name):
                    images[name] = member
                elif suffix is not None and name.endswith(suffix):
                    small = member.size <= _MAX_LABEL_BYTES
                    label = _label(read(), label_column or "") if small else None
                    if label is not None:
                        labels[_key(name)] = label
                elif ending(name) not in _COMPANIONS:
                    others[ending(name)] = others.get(ending(name), 0) + 1
                if len(images) + len(labels) > _MAX_MEMBERS:
                    raise ImageError(f"over {_MAX_MEMBERS:,} members: split the archive")
    except StoreError:
        raise
    except FileNotFoundError:
        problem = "no such file"
    except ImageError as error:
        problem = str(error)
    except Exception as error:  # a damaged archive can raise anything
        problem = f"unreadable: not a whole archive ({' '.join(str(error).split())[:120]})"
    return Directory(images, labels, others, problem)


def _tar_members(file: Any) -> Iterator[tuple[str, Member, Any]]:
    size = file.size()
    if size == 0:
        raise ImageError("unreadable: an empty file")
    end = 0
    with tarfile.open(fileobj=file, mode="r:", errorlevel=1) as tar:
        for info in tar:
            tar.members = []  # type: ignore[attr-defined]  # else all are kept
            name = _plain(info.name)
            if not info.isreg() or info.issparse():
                end = info.offset_data
                continue
            end = info.offset_data + info.size
            if end > size:
                raise ImageError(f"unreadable: cut short within {encode_path(info.name)}")
            if name is not None:
                yield name, Member(info.offset_data, info.size), partial(_data, file, info)
    file.seek(-(-end // _BLOCK) * _BLOCK)
    last = file.read(_BLOCK)  # a tar ends in blocks of zeros
    if len(last) < _BLOCK or any(last):
        raise ImageError("unreadable: cut short or damaged after its last member")


def _data(file: Any, member: tarfile.TarInfo) -> bytes:
    place = file.tell()
    file.seek(member.offset_data)
    content = bytes(file.read(member.size))
    file.seek(place)
    return content


def _zip_members(file: Any) -> Iterator[tuple[str, Member, Any]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name = _plain(info.filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG) or name is None:
                continue
            method = _ENCRYPTED if info.flag_bits & 1 else info.compress_type
            member = Member(
                info.header_offset, info.file_size, info.compress_size, method, info.CRC
            )

            def read(info: zipfile.ZipInfo = info) -> bytes:
                with archive.open(info) as opened:
                    return opened.read(_MAX_LABEL_BYTES)

            yield name, member, read


def _unpacked(place: str, member: Member) -> bytes:
    """Return the content of a member of a zip, whose directory may lie about it."""
    before = _ZIP_HEADER.size + _MAX_NAME_BYTES
    content = read_part(place, member.offset, member.offset + before + member.packed)
    if len(content) < _ZIP_HEADER.size or content[:4] != b"PK\3\4":
        raise ImageError("unreadable: its place in the archive is damaged")
    *_, name, extra = _ZIP_HEADER.unpack_from(content)
    start = _ZIP_HEADER.size + name + extra
    if start + member.packed > len(content):
        start += member.offset
        content, start = read_part(place, start, start + member.packed), 0
    data = content[start : start + member.packed]
    if member.method == zipfile.ZIP_DEFLATED:
        try:
            data = zlib.decompressobj(-15).decompress(data, MAX_BYTES + 1)
        except zlib.error:
            raise ImageError("unreadable: damaged within the archive") from None
    elif member.method != zipfile.ZIP_STORED:
        how = "encrypted" if member.method == _ENCRYPTED else f"packed by method {member.method}"
        raise ImageError(f"{how} in the archive: unpack it and give the folder")
    if len(data) > MAX_BYTES:
        raise ImageError(f"file of over {MAX_BYTES:,} bytes, the limit")
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise ImageError("unreadable: damaged within the archive")
    return data


def _plain(name: str) -> str | None:
    """Return the name of a member as it is listed; None if it is hidden."""
    name = name.replace("\0", "").removeprefix("./")
    parts = name.split("/")
    if not name or parts[-1].startswith(".") or parts[0] == "__MACOSX":
        return None
    return name


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _label(content: bytes, column: str) -> str | None:
    """Return the label in a member; None if there is none."""
    text = content.decode("utf-8", "replace")
    if column.startswith("json."):
        try:
            value: Any = json.loads(text)
            for name in column.split(".")[1:]:
                value = value[name]
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        if value is None or isinstance(value, dict | list):
            return None
        text = str(value)
    return " ".join(text.split()) or None


def member_path(shard: str, member: str) -> str:
    """Return the path of a member: `SHARD#MEMBER`, of an encoded path and a name."""
    return f"{shard}#{encode_path(member).replace('#', '%23')}"


def split_member(path: str) -> tuple[str, str]:
    """Split the path of a member: the encoded path of its archive, and its name."""
    shard, _, member = path.partition("#")
    return shard, decode_path(member)


def shard_path(path: str) -> str:
    """Return the encoded path of an archive as it stands before a member: without `#`."""
    return path.replace("#", "%23")


def read_member(source: Source, path: str) -> bytes:
    """Return the content of a member. Raises `ImageError` or `StoreError`."""
    shard, member = split_member(path)
    place = full_path(source, shard)
    with reasons_of_objects():
        size, modified = size_and_time(place)
    directory = _directories.of(place, size, modified)
    if member not in directory.images:
        raise ImageError(directory.problem or "no such file: the archive has no such member")
    found = directory.images[member]
    if found.size > MAX_BYTES:
        raise ImageError(f"file of {found.size:,} bytes, over the limit")
    if found.method != _TAR:
        return _unpacked(place, found)
    content = read_part(place, found.offset, found.offset + found.size)
    if len(content) != found.size:
        raise ImageError("unreadable: the archive was cut short meanwhile")
    return content


class _Directories:
    """The directories of the archives that were read last, within a bound of memory.

    Threads that want the same one wait for the first of them to read it.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Future[Directory]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, place: str, size: int | None, modified: int | None) -> Directory:
        """Return the directory of an archive of this size and time."""
        archive = (place, size, modified)
        with self._lock:
            is_new = archive not in self._kept
            reading = self._kept.setdefault(archive, Future())
            self._kept.move_to_end(archive)
        if is_new:
            try:
                reading.set_result(read_directory(place))
            except BaseException as error:
                reading.set_exception(error)
            self._tidy(archive)
        return reading.result()

    def _tidy(self, archive: tuple[Any, ...]) -> None:
        with self._lock:
            rows = 0
            for one, reading in list(reversed(self._kept.items())):
                if not reading.done():
                    continue
                found = None if reading.exception() else reading.result()
                # What cannot be read at all may be in a moment.
                images = len(found.images) if found else 0
                rows += images + _ROWS_OF_ARCHIVE
                if not images or (rows > _MAX_KEPT_MEMBERS and one != archive):
                    del self._kept[one]


_directories = _Directories()
