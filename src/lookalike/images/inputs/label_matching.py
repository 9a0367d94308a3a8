"""Match labels to photos by their names, in SQL joins that spill to disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.images.decoding.formats import ENDINGS
from lookalike.images.inputs.labels import (
    AMBIGUOUS,
    CONFLICTING,
    MAX_EXAMPLES,
    names_in_doubt,
    no_labels,
    write_labels,
)
from lookalike.system.sql import create_view, fetch_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


_MISSING = ["nan", "NaN", "NAN", "<NA>"]  # as programs write missing values; `Nan` is a class
_MISSING_NUMBERS = ["nan", "<na>", "na", "n/a", "null", "none"]  # in lower case, beside numbers
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"
_MAX_PARTS = 32  # at the end of a path
_MAX_LETTERS = 80  # of a name in an error


@dataclass(frozen=True)
class LabelCounts:
    """Counts of labels that did not match exactly.

    Attributes
    ----------
    unused
        Labels that match no photo, or several.
    loose
        Labels that match one photo only without their extension or their folders.
    missing
        Rows whose label is `nan` or similar.

    """

    unused: int = 0
    loose: int = 0
    missing: int = 0


def match_labels(
    sql: "DuckDBPyConnection",
    labels: Iterator[pa.RecordBatch],
    folder: Path,
    root: str,
    *,
    allow_unmatched: bool = False,
) -> LabelCounts:
    """Create the table `labelled` (id, label) from labels and the view `images` (id, path).

    A label matches the photo with its path, or with its name if it names no folder. The remaining
    labels and photos are compared regardless of case, kind of slash and Unicode normalisation: the
    name must be the end of a photo's absolute path, at last without extension. A name that matches
    several photos is unused. If no label matches at all, the folders of labels may differ from
    those of photos: then a photo's whole path below the root must be the end of a name.

    Parameters
    ----------
    sql
        A connection with the view `images`.
    labels
        Batches of `labels.SCHEMA`.
    folder
        Holds a temporary file of the labels.
    root
        The encoded folder or URI that paths are relative to.
    allow_unmatched
        Accept labels of which none matches: they may belong to other photos.

    Raises
    ------
    LookalikeError
        If a name has several labels or matches several photos exactly, or if no label matches.

    """
    missing = _load_labels(sql, labels, folder)
    sql.execute(
        """create temp table chosen as
        select id, coalesce(by_path.name, by_base.name) as name,
            coalesce(by_path.label, by_base.label) as label
        from images
        left join given as by_path on by_path.name = path
        left join given as by_base on by_base.name = split_part(path, '/', -1)"""
    )
    _raise_if_any(sql, "select name from given where conflicting", CONFLICTING)
    _raise_if_any(
        sql,
        "select name from chosen where name is not null group by name having count() > 1",
        AMBIGUOUS,
    )
    sql.execute("create temp table labelled as select id, label from chosen where name is not null")
    sql.execute(
        """create temp table names as
        select name, label from given where name not in (
            select path from images union select split_part(path, '/', -1) from images
        )"""
    )
    sql.execute("create temp table doubtful (name varchar)")
    loose = 0
    for extension, folders in ((True, True), (False, True), (True, False), (False, False)):
        # Names lose their folders only if no label matches with them.
        if folders or not _count_rows(sql, "labelled"):
            found = _match_rest(sql, root, extension, folders)
            loose += 0 if extension and folders else found
    if not allow_unmatched and not _count_rows(sql, "labelled"):
        _raise_if_any(sql, "select distinct name from doubtful", AMBIGUOUS)
        _raise_if_no_match(sql)
    return LabelCounts(_count_rows(sql, "names"), loose, missing)


def _load_labels(sql: "DuckDBPyConnection", labels: Iterator[pa.RecordBatch], folder: Path) -> int:
    """Make the table `given` of labels: a row a name, `conflicting` where it has several labels.

    Return how many rows have `nan` for a label, or the like.
    """
    file = folder / "labels.parquet"
    write_labels(labels, file)
    create_view(sql, "labels", file)
    values = {"missing": _MISSING, "missing_numbers": _MISSING_NUMBERS}
    query = """
        select bool_and(regexp_full_match(lower(label), $number)) from labels
        where label not in $missing and lower(label) not in $missing_numbers"""
    (numbers,) = fetch_row(sql, query, {**values, "number": _NUMBER})
    if numbers:
        missing = "(label in $missing or lower(label) in $missing_numbers)"
        label = r"regexp_replace(label, '\.0*$', '')"  # pandas: with a missing one all are floats
    else:
        missing, label = "label in $missing", "label"
        del values["missing_numbers"]
    # Names that fit no image are kept too: they are counted, and refused with two labels.
    sql.execute(
        f"""create temp table given as
        select name, min({label}) as label, min({label}) <> max({label}) as conflicting
        from labels where not {missing} group by name""",
        values,
    )
    if not _count_rows(sql, "given"):
        raise no_labels()
    (count,) = fetch_row(sql, f"select count() from labels where {missing}", values)
    return int(count)


def _raise_if_any(sql: "DuckDBPyConnection", names: str, meaning: tuple[str, str]) -> None:
    """Raise an error if a query gives any names."""
    first = sql.execute(f"select name, count() over () from ({names}) order by name")
    if some := first.fetchmany(MAX_EXAMPLES):
        raise names_in_doubt(some[0][1], [name for name, _ in some], meaning)


def _match_rest(sql: "DuckDBPyConnection", root: str, extension: bool, folders: bool) -> int:
    """Label more photos by more of the names, with their extension or without; say by how many.

    With the `folders` all of a name has to be the end of the whole path of a photo. Else all of the
    path of a photo below the root has to be the end of the name.
    """
    if not _count_rows(sql, "names") or not _count_rows(
        sql, "images anti join labelled using (id)"
    ):
        return 0
    values = {"below": root.rstrip("/") + "/"}
    whole = f"if(regexp_matches(path, '^(/|{_SCHEME})'), path, $below || path)"
    ours, theirs = _normalised(whole), _normalised("name")
    if not extension:
        ours = rf"regexp_replace({ours}, '\.[^./]*$', '')"
        theirs = f"regexp_replace({theirs}, '{_KNOWN}$', '')"
    if folders:
        keys, condition = f"select *, {theirs} as key from names", "true"
    else:
        above = f"len(string_split({_normalised('$root')}, '/'))"
        keys, condition = _path_ends("names", theirs), f"depth >= greatest(parts - {above}, 1)"
        values["root"] = root
    sql.execute(f"create or replace temp table keys as select name, label, key from ({keys})")
    photos = _path_ends("(from images anti join labelled using (id))", ours)
    sql.execute(
        f"""create or replace temp table fits as
        select id, name, label from ({photos}) join keys using (key)
        where {condition} qualify depth = max(depth) over (partition by id)""",
        values,
    )
    sql.execute("insert into doubtful select name from fits group by name having count() > 1")
    sql.execute(
        """create or replace temp table found as from fits
        qualify count() over (partition by name) = 1
            and min(label) over (partition by id) = max(label) over (partition by id)"""
    )
    sql.execute("insert into labelled select id, min(label) from found group by id")
    sql.execute("delete from names where name in (select name from found)")
    return _count_rows(sql, "found")


_SCHEME = "[A-Za-z][A-Za-z0-9+.-]*:/"
_KNOWN = rf"\.({'|'.join(ending[1:] for endings in ENDINGS.values() for ending in endings)})"


def _normalised(path: str) -> str:
    """Return the SQL of a path in a form in which alike ones are equal: no scheme, no dots."""
    plain = rf"regexp_replace(lower(nfc_normalize(replace({path}, '\', '/'))), '/+', '/', 'g')"
    return rf"regexp_replace({plain}, '^({_SCHEME})?(\.{{0,2}}/)*', '')"


def _path_ends(table: str, path: str) -> str:
    """Return the SQL of a table with `key`, the last `depth` of the `parts` names of each path."""
    return f"""
        select * exclude (names_of_path, first),
            array_to_string(names_of_path[first:], '/') as key,
            len(names_of_path) - first + 1 as depth, len(names_of_path) as parts
        from (
            select *, unnest(
                range(greatest(len(names_of_path) - {_MAX_PARTS - 1}, 1), len(names_of_path) + 1)
            ) as first
            from (select *, string_split({path}, '/') as names_of_path from {table})
        )"""


def _raise_if_no_match(sql: "DuckDBPyConnection") -> None:
    """Raise the error for labels of which none matches, unless there are no photos."""
    name, path = fetch_row(
        sql, "select (select min(name) from names), (select min(path) from images)"
    )
    if path is not None:
        raise LookalikeError(
            f"no label is of an image here: labels name {name[:_MAX_LETTERS]!r}, images are "
            f"{path[:_MAX_LETTERS]!r}: set `image_name` to the column of names, or "
            "leave `labels` out"
        )


def _count_rows(sql: "DuckDBPyConnection", table: str) -> int:
    return int(fetch_row(sql, f"select count() from {table}")[0])
