"""List the images of a store: names arrive in Arrow batches, and are sorted on disk."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError
from lookalike.images.decoding.formats import FIRST_BYTES, sniff
from lookalike.images.decoding.raster import MAX_BYTES
from lookalike.images.inputs.file_types import (
    OTHER_ENDINGS,
    IgnoredFiles,
    begins_as_image,
    readable,
)
from lookalike.images.inputs.listing import (
    LISTING,
    LISTING_BATCH_ROWS,
    write_inputs,
    write_listing,
)
from lookalike.images.inputs.scan import ScannedFile, no_images_error, walk
from lookalike.images.inputs.source import Source, encode_path
from lookalike.system.sql import connect, create_view
from lookalike.system.store import OBJECT, Store, open_object, open_store
from lookalike.system.uris import split_uri

_REQUESTS = 32  # at once
_SORT_THREADS = 2
_SORT_MEMORY = "128MB"
_SPECIAL = re.compile(r"[*?{\[]")
_PARTS = re.compile(r"\*\*/?|\*|\?|\[[^]]+\]|\{[^}]*\}|\\.|.", re.DOTALL)
# Hidden objects, logs of tables, and the marks of folders that Hadoop leaves.
_HIDDEN = r"(^|/)(\.|_delta_log/)|_\$folder\$$"
_ENDING = r"(?P<ending>\.[^./\p{C}]{1,11})$"
_ENCODED = r"[%\x00-\x1f\x7f]"
_FOUND = pa.schema([field for field in LISTING if field.name not in ("id", "label")])
_MS_NS = 1_000_000


def list_store(source: Source, listing: Path, ignored: IgnoredFiles | None = None) -> int:
    """Write the images below a URI to a Parquet file, in the order of their paths.

    Memory holds some batches of names; sorting spills to disk. Of objects with an unknown ending
    the first bytes are read. Parameters, result and errors are those of `list_images`.
    """
    ignored = ignored or IgnoredFiles()
    if split_uri(source.root)[0] == "file":
        count = write_inputs(_walk_local(source.root, ignored.accepts), listing)
    else:
        found = listing.with_name(f"found-{listing.name}")
        with pq.ParquetWriter(found, _FOUND) as writer, ThreadPoolExecutor(_REQUESTS) as pool:
            found_images = (
                _images(source.root, store, objects, ignored, pool)
                for store, objects in _objects(source.root)
            )
            for table in _tables(found_images):
                writer.write_table(table)
        count = _sort(found, listing)
        found.unlink()
    if count == 0:
        raise no_images_error(source, ignored)
    return count


def _tables(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Collect batches: each row group of a file costs memory and time."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= LISTING_BATCH_ROWS:
            yield pa.Table.from_batches(held)
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held)


def list_named(source: Source, paths: Sequence[str], listing: Path, ignored: IgnoredFiles) -> None:
    """Write the images among some URIs, not encoded, as `list_store` does; leave out others.

    Those that have vanished are left out too.
    """
    if split_uri(source.root)[0] == "file":
        files = sorted({split_uri(path)[2] for path in paths})
        images = (one for one in files if os.path.isfile(one) and ignored.accepts(one))
        listed = (one for file in images for one in _walk_local(f"file:{file}", lambda _: True))
        write_inputs(listed, listing)
        return
    store = Store(open_store(source.root).root)

    def about(path: str) -> dict[str, str | int | None] | None:
        name = open_object(path)[1]
        try:
            found = store.head(name)
        except FileNotFoundError:
            return None
        except OSError:  # reading it will give the reason
            return {"name": name}
        return {"name": name, **found._asdict()}

    with ThreadPoolExecutor(_REQUESTS) as pool:
        there = filter(None, pool.map(about, paths))
        rows = sorted(there, key=lambda row: str(row["name"]))
        objects = pa.RecordBatch.from_pylist(rows, OBJECT)
        found = _images(source.root, store, objects, ignored, pool)
    with pq.ParquetWriter(listing, LISTING) as writer:
        count = found.num_rows
        ids, labels = pa.array(range(count), pa.int64()), pa.nulls(count, pa.string())
        found_columns = {"id": ids, "label": labels, **{name: found[name] for name in _FOUND.names}}
        writer.write_batch(
            pa.record_batch([found_columns[name] for name in LISTING.names], LISTING)
        )


def list_shards(root: str, accepts: Callable[[str], bool]) -> Iterator[ScannedFile]:
    """Yield the files of a table at a URI whose names are accepted, in the order of their paths."""
    if split_uri(root)[0] == "file":
        yield from _walk_local(root, accepts)
        return
    found: list[ScannedFile] = []  # the files of a table are few
    for store, objects in _objects(root):
        uri = _below(root, store)
        for one in objects.to_pylist():
            if accepts(one["name"]):
                path = encode_path(uri + one["name"])
                found.append(ScannedFile(path, None, one["size"], one["modified"]))
    yield from sorted(found, key=lambda shard: shard.path)


def _walk_local(root: str, accepts: Callable[[str], bool]) -> Iterator[ScannedFile]:
    """Yield the files below a URI of the local disk, named as Spark names them: `file:/...`."""
    _, host, path = split_uri(root)
    if host:
        raise LookalikeError(f"{root} names a host: give file:///{host}{path}, with three slashes")
    top, matches = path, None
    if not os.path.lexists(path) and _SPECIAL.search(path):
        top, matches = _pattern(path)
        top = top or "/"
    if not os.path.lexists(top):
        raise LookalikeError(f"no such file or folder: {encode_path(root)}")
    names = ("",)
    if not os.path.isdir(top):
        top, name = os.path.split(top)
        names = (name,)

    def is_wanted(file: str) -> bool:
        inside = matches is None or matches.fullmatch(os.path.relpath(file, top)) is not None
        return inside and accepts(file)

    before = encode_path(f"file:{top.rstrip('/')}/")
    for one in walk(Source("files", top, names), is_wanted):
        modified = None if one.modified is None else one.modified // _MS_NS * _MS_NS
        yield ScannedFile(before + one.path, one.reason, one.size, modified)


def _objects(root: str) -> Iterator[tuple[Store, pa.RecordBatch]]:
    """Yield the objects below a URI or a glob, or the object that a URI names."""
    store = open_store(root)
    empty = True
    for batch in store.list():
        empty = False
        yield store, _shown(batch, None)
    if not empty:
        return
    if _SPECIAL.search(store.prefix):
        top, pattern = _pattern(store.prefix)
        store = Store(store.root, top)
        for batch in store.list():
            yield store, _shown(batch, pattern.pattern)
    elif store.prefix:
        store, name = open_object(root)
        try:
            about = store.head(name)
        except FileNotFoundError:
            return
        columns = [[name], [about.size], [about.modified], [about.etag]]
        yield store, pa.record_batch(columns, ["name", "size", "modified", "etag"])


def _pattern(path: str) -> tuple[str, "re.Pattern[str]"]:
    """Split a glob of Hadoop: the folder before its first pattern, an expression for the rest.

    `*` and `?` match within a name, `**` any number of folders. A folder that matches stands for
    all that is below it.
    """
    parts = path.split("/")
    fixed = next(at for at, part in enumerate(parts) if _SPECIAL.search(part))
    wanted = "".join(map(_meaning, _PARTS.findall("/".join(parts[fixed:]))))
    return "/".join(parts[:fixed]), re.compile(f"(?:{wanted})(?:/.*)?", re.DOTALL)


def _meaning(part: str) -> str:
    if part in ("**", "**/"):
        return "(?:.*/)?" if part == "**/" else ".*"
    if part in ("*", "?"):
        return "[^/]*" if part == "*" else "[^/]"
    if part[0] == "[" and len(part) > 1:
        inner = part[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        return f"[^{inner[1:]}]" if inner[0] in "!^" else f"[{inner}]"
    if part[0] == "{" and len(part) > 1:
        choices = ("".join(map(_meaning, _PARTS.findall(one))) for one in part[1:-1].split(","))
        return f"(?:{'|'.join(choices)})"
    return re.escape(part[1:] if part[0] == "\\" and len(part) > 1 else part)


def _shown(objects: pa.RecordBatch, pattern: str | None) -> pa.RecordBatch:
    """Return the objects that are not hidden and match a pattern."""
    shown = pc.invert(pc.match_substring_regex(objects["name"], _HIDDEN))
    if pattern is not None:
        wanted = pc.match_substring_regex(objects["name"], rf"(?s)\A(?:{pattern})\z")
        shown = pc.and_(shown, wanted)
    return objects.filter(shown)


def _below(root: str, store: Store) -> str:
    """Return the URI of a store with a slash, with the scheme as it was given."""
    return f"{root.partition(':')[0]}:{store.uri.partition(':')[2]}/"


def _images(
    root: str,
    store: Store,
    objects: pa.RecordBatch,
    ignored: IgnoredFiles,
    pool: ThreadPoolExecutor,
) -> pa.RecordBatch:
    """Return the images among some objects, with the columns of `_FOUND`; count the others."""
    if ignored.excluded is not None:
        own = ignored.excluded.removeprefix(_below(root, store))
        objects = objects.filter(pc.not_equal(objects["name"], own))
    ending = pc.struct_field(pc.extract_regex(objects["name"], _ENDING), ["ending"])
    ending = pc.fill_null(pc.utf8_lower(ending), "")
    is_empty = pc.fill_null(pc.equal(objects["size"], 0), False)
    mark = pc.and_(pc.equal(ending, ""), is_empty)  # of a folder
    if pc.any(mark).as_py():
        objects, ending = objects.filter(pc.invert(mark)), ending.filter(pc.invert(mark))
    is_image = pc.is_in(ending, pa.array(sorted(readable())))
    is_other = pc.is_in(ending, pa.array(sorted(OTHER_ENDINGS)))
    is_other = pc.and_(is_other, pc.invert(is_image))
    unknown = pc.invert(pc.or_(is_image, is_other))
    counted = ending.filter(is_other)
    if pc.any(unknown).as_py():
        some = objects.filter(unknown)
        first = list(pool.map(lambda name: _first_bytes(store, name), some["name"].to_pylist()))
        shows = [begins_as_image(one) for one in first]
        types = [
            ".heic" if sniff(one) == "HEIF" else type_
            for one, type_ in zip(first, ending.filter(unknown).to_pylist(), strict=True)
        ]
        others = [type_ for type_, shown in zip(types, shows, strict=True) if not shown]
        counted = pa.concat_arrays([counted, pa.array(others, pa.string())])
        is_image = pc.replace_with_mask(is_image, unknown, pa.array(shows, pa.bool_()))
    for one in pc.value_counts(counted).to_pylist():
        ignored.add(one["values"], one["counts"])
    return _as_found(_below(root, store), objects.filter(is_image))


def _as_found(before: str, images: pa.RecordBatch) -> pa.RecordBatch:
    names, sizes = images["name"], images["size"]
    odd = pc.match_substring_regex(names, _ENCODED)
    if pc.any(odd).as_py():
        encoded = [encode_path(name) for name in names.filter(odd).to_pylist()]
        names = pc.replace_with_mask(names, odd, pa.array(encoded, pa.string()))
    paths = pc.binary_join_element_wise(pa.scalar(encode_path(before)), names, "")
    reasons = pa.nulls(len(names), pa.string())
    large = pc.fill_null(pc.greater(sizes, MAX_BYTES), False)
    if pc.any(large).as_py():
        said = [
            f"file of {size:,} bytes, over the limit" for size in sizes.filter(large).to_pylist()
        ]
        reasons = pc.replace_with_mask(reasons, large, pa.array(said, pa.string()))
    columns = {"path": paths, "reason": reasons, "size": sizes, "modified": images["modified"]}
    return pa.RecordBatch.from_arrays([columns[name] for name in _FOUND.names], schema=_FOUND)


def _first_bytes(store: Store, name: str) -> bytes:
    """Return the first bytes of an object, none if it may not be read or has vanished."""
    try:
        return store.get_range(name, 0, FIRST_BYTES)
    except OSError:
        return b""


def _sort(found: Path, listing: Path) -> int:
    with connect(listing.parent) as sql:
        # Less than other joins take: names of a store are only sorted.
        sql.execute(f"set threads = {_SORT_THREADS}; set memory_limit = '{_SORT_MEMORY}'")
        create_view(sql, "found", found)
        query = """
            select row_number() over () - 1 as id, path, null::varchar as label, reason, size,
                modified
            from (from found order by path)"""
        write_listing(sql, query, listing)
    return int(pq.read_metadata(listing).num_rows)
