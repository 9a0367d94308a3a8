"""Which label is of which photo: the rules, as joins on the disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.images.formats import ENDINGS
from lookalike.images.labels import (
    AMBIGUOUS,
    CONFLICTING,
    EXAMPLES,
    names_in_doubt,
    no_labels,
    write_labels,
)
from lookalike.sql import create_view, fetch_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MISSING = ["nan", "NaN", "NAN", "<NA>"]  # as programs write missing numbers; `Nan` is a class
_MISSING_NUMBERS = ["nan", "<na>", "na", "n/a", "null", "none"]  # in any case, among numbers
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"
_DEPTH = 32  # names at the end of a path that are compared
_SHOWN = 80  # letters of a name in an error


@dataclass(frozen=True)
class Labelled:
    """How labels were given to photos.

    `unused` labels are of no photo, or of several; `loose` ones fitted one photo by a part of their
    name only: without the extension, or without the folders. `missing` rows have `nan` for a label,
    or the like.
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
    some: bool = False,
) -> Labelled:
    """Make the table `labelled`, with columns `id` and `label`, of the view `images`.

    That has the columns `id` and `path`; `root` is the encoded place that the paths begin at. The
    labels pass through a file in `folder`. A label is of the photo with its path or, where it names
    no folder, its name. What is then left on both sides is compared without regard to case, slashes
    and the way accents are written: a name has to be the end of the whole path of a photo; at last
    without extensions. There what fits several is left out. Where no label fits so, those with
    other folders than the photos count by what they have in common with a path below the root.

    Raises `LookalikeError` where a name has several labels or, as it stands, fits several photos,
    and where no label fits at all unless `some` may be of other photos.
    """
    missing = _read(sql, labels, folder)
    sql.execute(
        """create temp table chosen as
        select id, coalesce(by_path.name, by_base.name) as name,
            coalesce(by_path.label, by_base.label) as label
        from images
        left join given as by_path on by_path.name = path
        left join given as by_base on by_base.name = split_part(path, '/', -1)"""
    )
    _refuse(sql, "select name from given where conflicting", CONFLICTING)
    _refuse(
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
        # Without the folders that it names, only where none is known as it is named.
        if folders or not _count(sql, "labelled"):
            found = _match_rest(sql, root, extension, folders)
            loose += 0 if extension and folders else found
    if not some and not _count(sql, "labelled"):
        _refuse(sql, "select distinct name from doubtful", AMBIGUOUS)
        _refuse_strangers(sql)
    return Labelled(_count(sql, "names"), loose, missing)


def _read(sql: "DuckDBPyConnection", labels: Iterator[pa.RecordBatch], folder: Path) -> int:
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
    if not _count(sql, "given"):
        raise no_labels()
    (count,) = fetch_row(sql, f"select count() from labels where {missing}", values)
    return int(count)


def _refuse(sql: "DuckDBPyConnection", names: str, meaning: tuple[str, str]) -> None:
    """Raise an error if a query gives any names."""
    first = sql.execute(f"select name, count() over () from ({names}) order by name")
    if some := first.fetchmany(EXAMPLES):
        raise names_in_doubt(some[0][1], [name for name, _ in some], meaning)


def _match_rest(sql: "DuckDBPyConnection", root: str, extension: bool, folders: bool) -> int:
    """Label more photos by more of the names, with their extension or without; say by how many.

    With the `folders` all of a name has to be the end of the whole path of a photo. Else all of the
    path of a photo below the root has to be the end of the name.
    """
    if not _count(sql, "names") or not _count(sql, "images anti join labelled using (id)"):
        return 0
    values = {"below": root.rstrip("/") + "/"}
    whole = f"if(regexp_matches(path, '^(/|{_SCHEME})'), path, $below || path)"
    ours, theirs = _alike(whole), _alike("name")
    if not extension:
        ours = rf"regexp_replace({ours}, '\.[^./]*$', '')"
        theirs = f"regexp_replace({theirs}, '{_KNOWN}$', '')"
    if folders:
        keys, condition = f"select *, {theirs} as key from names", "true"
    else:
        above = f"len(string_split({_alike('$root')}, '/'))"
        keys, condition = _ends("names", theirs), f"depth >= greatest(parts - {above}, 1)"
        values["root"] = root
    sql.execute(f"create or replace temp table keys as select name, label, key from ({keys})")
    photos = _ends("(from images anti join labelled using (id))", ours)
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
    return _count(sql, "found")


_SCHEME = "[A-Za-z][A-Za-z0-9+.-]*:/"
_KNOWN = rf"\.({'|'.join(ending[1:] for endings in ENDINGS.values() for ending in endings)})"


def _alike(path: str) -> str:
    """Return the SQL of a path in a form in which alike ones are equal: no scheme, no dots."""
    plain = rf"regexp_replace(lower(nfc_normalize(replace({path}, '\', '/'))), '/+', '/', 'g')"
    return rf"regexp_replace({plain}, '^({_SCHEME})?(\.{{0,2}}/)*', '')"


def _ends(table: str, path: str) -> str:
    """Return the SQL of a table with `key`, the last `depth` of the `parts` names of each path."""
    return f"""
        select * exclude (names_of_path, first),
            array_to_string(names_of_path[first:], '/') as key,
            len(names_of_path) - first + 1 as depth, len(names_of_path) as parts
        from (
            select *, unnest(
                range(greatest(len(names_of_path) - {_DEPTH - 1}, 1), len(names_of_path) + 1)
            ) as first
            from (select *, string_split({path}, '/') as names_of_path from {table})
        )"""


def _refuse_strangers(sql: "DuckDBPyConnection") -> None:
    """Raise the error for labels none of which is of a photo, where there are photos."""
    name, path = fetch_row(
        sql, "select (select min(name) from names), (select min(path) from images)"
    )
    if path is not None:
        raise LookalikeError(
            f"no label is of an image here: labels name {name[:_SHOWN]!r}, images are "
            f"{path[:_SHOWN]!r}: set `image_name` to the column of names, or leave `labels` out"
        )


def _count(sql: "DuckDBPyConnection", table: str) -> int:
    return int(fetch_row(sql, f"select count() from {table}")[0])
