"""Select rows by the names of images: paths, folders and globs."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.images.inputs.source import glob_pattern
from lookalike.ingest.diff import OnChange, report_changes
from lookalike.storage import EmbeddingTable
from lookalike.storage.commits import NO_IDS, Ids, query_ids
from lookalike.system.sql import Values

MAX_NAMED_EXAMPLES = 5


def matching_ids(
    stored: EmbeddingTable,
    names: Mapping[str, str],
    folder: Path,
    on_change: OnChange | None = None,
) -> Ids:
    """Return the ids of the rows that match names, int64 (n,), in ascending order.

    Parameters
    ----------
    stored
        The table.
    names
        Maps each given name to an encoded path relative to the root: a file, a folder, or a glob,
        in which `*` matches slashes too.
    folder
        A folder for temporary files.
    on_change
        Called with `-` and the path of each row.

    Raises
    ------
    LookalikeError
        If a name matches no row.

    """
    found: list[Ids] = []
    unknown: list[str] = []
    if stored.has_keys:
        return _ids_of_keys(stored, list(names), folder, on_change)
    with stored.connect(folder) as sql:
        sql.register("names", pa.table({"given": list(names), "path": list(names.values())}))
        sql.execute("create temp table exact as from names join stored using (path)")
        found.append(query_ids(sql, "select id from exact"))
        if on_change is not None:
            report_changes(sql, "select '-', path from exact", on_change)
        others = sql.execute("from names anti join exact using (path)").fetchall()
        for given, name in others:  # folders and globs
            condition, values = _name_condition(name)
            ids = query_ids(sql, f"select id from stored where {condition}", values)
            found.append(ids)
            if not len(ids):
                unknown.append(given)
            elif on_change is not None:
                report_changes(
                    sql, f"select '-', path from stored where {condition}", on_change, values
                )
    if unknown:
        raise _unknown_error(stored, "image", unknown)
    return np.unique(np.concatenate([NO_IDS, *found]))


def _unknown_error(stored: EmbeddingTable, what: str, unknown: Sequence[str]) -> LookalikeError:
    examples = ", ".join(unknown[:MAX_NAMED_EXAMPLES])
    more = ", ..." if len(unknown) > MAX_NAMED_EXAMPLES else ""
    return LookalikeError(f"{stored.path} has no {what} {examples}{more}; none was removed")


def _ids_of_keys(
    stored: EmbeddingTable, keys: Sequence[str], folder: Path, on_change: OnChange | None
) -> Ids:
    """Return the ids of the rows with these keys, int64 (n,), in ascending order."""
    with stored.connect(folder) as sql:
        sql.register("names", pa.table({"name": pa.array(keys, pa.string())}))
        sql.execute(
            """create temp table named as
            select name, id, key from names left join stored on key::varchar = name"""
        )
        unknown = sql.execute("select name from named where id is null").fetchall()
        if unknown:
            raise _unknown_error(stored, "key", [name for (name,) in unknown])
        if on_change is not None:
            report_changes(sql, "select '-', key::varchar from named", on_change)
        return query_ids(sql, "select distinct id from named")


def _name_condition(name: str) -> tuple[str, Values]:
    """Return the SQL condition that a path matches a folder or glob."""
    if name == ".":
        return "true", {}
    if glob.has_magic(name):
        return "regexp_full_match(path, $pattern, 's')", {"pattern": glob_pattern(name)}
    return "starts_with(path, $folder)", {"folder": name.rstrip("/") + "/"}
