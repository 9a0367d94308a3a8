"""The rows that names of images stand for: paths, folders and globs."""

import glob
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.images.inputs.source import glob_pattern
from lookalike.ingest.diff import Say, tell
from lookalike.storage import EmbeddingTable
from lookalike.storage.commits import NO_IDS, Ids, query_ids
from lookalike.system.sql import Values

MAX_NAMED_EXAMPLES = 5


def matching(
    stored: EmbeddingTable, names: Mapping[str, str], folder: Path, say: Say | None = None
) -> Ids:
    """Return the ids of the rows that some names are of, rising.

    `names` has for each name as it was given an encoded path seen from the root: of a file, of a
    folder, or a glob, in which `*` matches slashes too. Raises `LookalikeError` where one is of
    no row.
    """
    found: list[Ids] = []
    unknown: list[str] = []
    with stored.connect(folder) as sql:
        sql.register("names", pa.table({"given": list(names), "path": list(names.values())}))
        sql.execute("create temp table exact as from names join stored using (path)")
        found.append(query_ids(sql, "select id from exact"))
        if say is not None:
            tell(sql, "select '-', path from exact", say)
        others = sql.execute("from names anti join exact using (path)").fetchall()
        for given, name in others:  # folders and globs
            condition, values = _is_named(name)
            ids = query_ids(sql, f"select id from stored where {condition}", values)
            found.append(ids)
            if not len(ids):
                unknown.append(given)
            elif say is not None:
                tell(sql, f"select '-', path from stored where {condition}", say, values)
    if unknown:
        some = ", ".join(unknown[:MAX_NAMED_EXAMPLES])
        more = ", ..." if len(unknown) > MAX_NAMED_EXAMPLES else ""
        raise LookalikeError(f"{stored.path} has no image {some}{more}; none was removed")
    return np.unique(np.concatenate([NO_IDS, *found]))


def _is_named(name: str) -> tuple[str, Values]:
    """Return the SQL that says whether a folder or glob names a path."""
    if name == ".":
        return "true", {}
    if glob.has_magic(name):
        return "regexp_full_match(path, $pattern, 's')", {"pattern": glob_pattern(name)}
    return "starts_with(path, $folder)", {"folder": name.rstrip("/") + "/"}
