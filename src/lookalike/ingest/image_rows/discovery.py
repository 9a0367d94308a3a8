"""List the rows of a DataFrame of images, find their place, and compare them with the index."""

import os
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike import images
from lookalike.errors import LookalikeError
from lookalike.images.inputs.listing import write_listing
from lookalike.images.inputs.source import is_inside
from lookalike.ingest import diff
from lookalike.ingest.diff import OnChange, Plan
from lookalike.ingest.image_rows.given import PLACE, ImageRows
from lookalike.ingest.image_rows.in_process import read_spooled, spool
from lookalike.ingest.image_rows.on_spark import images_frame, list_frame
from lookalike.ingest.image_rows.rows import PART, RowReader
from lookalike.ingest.job_inputs import Inputs, PathSet
from lookalike.ingest.vectors.plan import nulls_error, repeats_error
from lookalike.storage import EmbeddingTable
from lookalike.storage.schema import KEY
from lookalike.system.progress import progress_line
from lookalike.system.sql import connect, create_view, fetch_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


_EVERYWHERE = ("", "/")
_STORE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://[^/]*/")


@dataclass(frozen=True)
class FoundRows:
    """The rows of a DataFrame: what is read of them, and where their images are.

    Attributes
    ----------
    inputs, plan
        As in `discovery.Discovery`.
    source
        The place of the images.
    folders
        Folders outside the root of the index that it does not record yet.

    """

    inputs: Inputs
    plan: Plan | None
    source: images.Source
    folders: tuple[str, ...] = ()


def discover_rows(
    given: ImageRows,
    stored: EmbeddingTable | None,
    staging: Path,
    on_change: OnChange | None = None,
    *,
    keep_labels: bool = True,
) -> FoundRows:
    """List the rows of a DataFrame, and compare them with the index, if there is one.

    A new index reads names alone, and then each image once. With an index, sizes and times are
    compared, where rows have them, else the contents.

    Raises
    ------
    LookalikeError
        If there are no rows, rows without a name or with the same one, or images of another place
        than those of the index.

    """
    has_times = given.kind == "path" or given.is_binary_file
    reader = RowReader(given.columns, given.kind, os.getcwd(), has_times)
    hashed = stored is not None and not has_times
    listed = staging / "rows"
    spooled: Path | None = None
    if given.frame is not None:
        list_frame(given, reader, listed, with_images=hashed)
    else:
        listed.mkdir()
        with progress_line("listing images"):
            spooled = spool(given, reader, listed, hashed=hashed)
            if spooled is not None:
                spooled = spooled.replace(staging / spooled.name)
    listing = staging / "listing.parquet"
    with connect(staging) as sql:
        create_view(sql, "rows", listed)
        _check_names(sql, given)
        (count, parts) = fetch_row(sql, f"select count(), count(distinct {PART}) from rows")
        if not count:
            raise LookalikeError(f"{PLACE} has no rows: nothing was changed")
        source, root = _place(sql, given, stored)
        folders = () if stored is None else _folders(sql, stored, root)
        is_listed = stored is not None or given.kind == "path"
        query = f"""
            select row_number() over (order by path) - 1 as id, * exclude ({PART}, path),
                if(starts_with(path, $root), substr(path, length($root) + 1), path) as path
            from rows order by id"""
        if is_listed:
            write_listing(sql, query, listing, {"root": root})
    reader = replace(reader, root=root)
    if stored is None:
        inputs = Inputs(count, listing)
        if given.kind != "path":
            inputs = _contents(given, reader, spooled, Inputs(count), parts)
        return FoundRows(inputs, None, source)
    with progress_line("comparing with the index"):
        plan = diff.plan(
            stored, [listing], _EVERYWHERE, staging, on_change, keep_labels=keep_labels
        )
    inputs = Inputs(plan.count, plan.to_read, lookup=plan.lookup)
    if given.kind != "path":
        column = "path" if given.columns.key is None else KEY
        wanted = PathSet.of(plan.to_read, staging / "wanted.npy", column)
        inputs = replace(inputs, listing=None, paths=wanted, first_id=plan.first_id)
        inputs = _contents(given, reader, spooled, inputs, parts)
    return FoundRows(inputs, plan, source, folders)


def _contents(
    given: ImageRows, reader: RowReader, spooled: Path | None, inputs: Inputs, parts: int
) -> Inputs:
    """Return rows with contents as inputs, read by Spark or by this process."""
    wanted = inputs.paths
    if given.frame is not None:
        frame = images_frame(given, inputs.count, parts)
        return replace(inputs, frame=frame, read=reader.read_images)
    assert spooled is not None
    read = partial(read_spooled, spooled, reader, inputs.first_id, wanted)
    return replace(inputs, batches=read)


def _check_names(sql: "DuckDBPyConnection", given: ImageRows) -> None:
    """Raise `LookalikeError` where rows lack a name, or share one."""
    own = given.columns
    name, column = (KEY, own.id_column) if own.key is not None else ("path", _path_column(given))
    (nulls,) = fetch_row(sql, f"select count() - count({name}) from rows")
    if nulls:
        raise nulls_error(PLACE, str(column), nulls)
    # Hashes take a fraction of the room of names.
    query = f"""
        select {name}, count() from rows where hash({name}) in
            (select hash({name}) from rows group by hash({name}) having count() > 1)
        group by {name} having count() > 1 order by {name} limit 1"""
    if (found := sql.execute(query).fetchone()) is not None:
        raise repeats_error(PLACE, str(column), *found)


def _path_column(given: ImageRows) -> str | None:
    if given.name_field is not None:
        return f"{given.columns.image_column}.{given.name_field}"
    return given.columns.path_column or given.columns.image_column


def _place(
    sql: "DuckDBPyConnection", given: ImageRows, stored: EmbeddingTable | None
) -> tuple[images.Source, str]:
    """Return the place of the images of rows, and the prefix that their paths leave out.

    Raises `LookalikeError` if that is another place than that of the index.
    """
    query = "select min(path), max(path), bool_and(starts_with(path, '/')) from rows"
    first, last, are_local = fetch_row(sql, query)
    above = os.path.commonprefix([first, last]).rpartition("/")[0]  # noqa: RUF071 - a URI may be
    store = _STORE.match(f"{above}/")
    if are_local:
        source = images.Source("files", images.decode_path(above) or "/", ())
    elif store is not None:
        source = images.Source("uri", images.decode_path(store[0].rstrip("/")), ())
    elif given.kind == "path":
        raise LookalikeError(
            f"the paths of {PLACE} lead to several places, such as {first} and {last}: index each "
            "store, and the local files, apart"
        )
    else:
        source = images.Source("rows", os.getcwd(), ())
    if stored is not None:
        source = _stored_place(source, above, stored, given)
    is_folder = source.kind == "files"
    return source, f"{images.encode_path(source.root).rstrip('/')}/" if is_folder else ""


def _stored_place(
    source: images.Source, above: str, stored: EmbeddingTable, given: ImageRows
) -> images.Source:
    """Return the place of an index, if rows below the encoded path `above` can be added to it."""
    known = stored.source
    if known.kind == "rows" and given.kind != "path":
        return known
    is_there = known.kind == "files" or is_inside(known, above)
    if known.kind != source.kind or not is_there:
        raise LookalikeError(
            f"{stored.path} was made of {known.root}, but {PLACE} has images of {source.root}: "
            "make another index for it"
        )
    return known


def _folders(sql: "DuckDBPyConnection", stored: EmbeddingTable, root: str) -> tuple[str, ...]:
    """Return the folder of the local images outside the root, if the index does not record it."""
    if stored.source.kind != "files":
        return ()
    known = [root, *(f"{images.encode_path(one).rstrip('/')}/" for one in stored.source.also)]
    outside = " and ".join(f"not starts_with(path, $known_{at})" for at in range(len(known)))
    values = {f"known_{at}": one for at, one in enumerate(known)}
    first, last = fetch_row(sql, f"select min(path), max(path) from rows where {outside}", values)
    if first is None:
        return ()
    above = os.path.commonprefix([first, last]).rpartition("/")[0]  # noqa: RUF071
    return (images.decode_path(above) or "/",)
