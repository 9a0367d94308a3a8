"""Choose rows by label, by path, or by a condition in SQL on their columns."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike import images
from lookalike.errors import LookalikeError
from lookalike.storage import local_rows
from lookalike.storage.schema import KEY, kept_of, schema_in
from lookalike.system.arrays import Mask, Numbers
from lookalike.system.paths import is_text
from lookalike.system.sql import connect, create_view, fetch_row

if TYPE_CHECKING:
    from lookalike.storage import Segment


MAX_CONDITION_CHARS = 2_000
_COLUMNS = {
    "id": "id",
    "path": "path",
    "label": "label",
    "width": "width",
    "height": "height",
    "size": "size",
    "modified": "make_timestamp_ns(modified)",
    "content_hash": "content_hash",
}
"""What a condition may name, as SQL on the columns of a data file."""
_CLASSES = {
    "BETWEEN",
    "CAST",
    "COLUMN_REF",
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "FUNCTION",
    "OPERATOR",
    "TYPE",
}
_FUNCTIONS = {
    *("~~", "!~~", "~~*", "!~~*", "regexp_matches", "regexp_full_match"),
    *("contains", "starts_with", "ends_with", "prefix", "suffix", "lower", "upper", "length"),
    *("+", "-", "*", "/", "//", "%", "abs", "round", "floor", "ceil"),
    *("date_part", "year", "month", "day"),
}
_QUERY = "select 1 from rows where (\n{}\n)"


@dataclass(frozen=True)
class Filter:
    """Rows with one of the labels, a path that matches a glob, and a condition that holds.

    `*` matches slashes too. None stands for no such filter.
    """

    labels: tuple[str, ...] | None = None
    globs: tuple[str, ...] | None = None
    where: str | None = None

    @classmethod
    def of(
        cls,
        label: str | Sequence[str] | None = None,
        path: str | Sequence[str] | None = None,
        where: str | None = None,
    ) -> Self:
        """Return the filter of the options of a search. Raises `LookalikeError` for a bad one."""
        if where is not None:
            columns_of(where)
        return cls(_tuple(label), _tuple(path), where)

    def __bool__(self) -> bool:
        return self != Filter()

    def mask(self, segments: "Sequence[Segment]") -> Mask:
        """Return which rows of some segments it chooses: bool (rows,)."""
        parts = [self._mask(segment) for segment in segments]
        mask = np.concatenate(parts) if parts else np.empty(0, bool)
        if self.where is not None and mask.any():
            numbers = _numbers_where(segments, self.where)
            mask &= np.concatenate([np.isin(segment.ids, numbers) for segment in segments])
        return mask

    def _mask(self, segment: "Segment") -> Mask:
        mask = np.ones(len(segment.ids), bool)
        if self.labels is not None:
            # No row has a label that is not UTF-8.
            wanted = pa.array([one for one in self.labels if is_text(one)], pa.string())
            mask &= pc.is_in(segment.rows["label"], wanted).to_numpy()
        if self.globs is not None:
            patterns = "|".join(map(images.glob_pattern, self.globs)) or "$."
            try:
                fits = pc.match_substring_regex(segment.rows["path"], f"(?s)^(?:{patterns})$")
            except pa.ArrowInvalid as error:
                raise LookalikeError(f"no glob for paths: {[*self.globs]} ({error})") from None
            mask &= fits.to_numpy()
        return mask

    def no_match_error(self) -> LookalikeError:
        """Return the error where it chooses no row."""
        filters = (("has the label", self.labels), ("has a path that matches", self.globs))
        conditions = [f"{what} {' or '.join(map(repr, some))}" for what, some in filters if some]
        if self.where is not None:
            conditions.append(f"meets {' '.join(self.where.split())}")
        if not conditions:
            return LookalikeError(
                "the filter is empty: give a label or path, or leave the filter out"
            )
        return LookalikeError(
            f"no image {' and '.join(conditions)}: check the names and their case"
        )


@lru_cache(64)
def columns_of(where: str) -> tuple[str, ...]:
    """Return the columns that a condition in SQL compares.

    Raises `LookalikeError` for anything but a condition. Subqueries and most functions are refused:
    it can come from anybody who may search.
    """
    if len(where) > MAX_CONDITION_CHARS:
        raise LookalikeError(f"`where` is over {MAX_CONDITION_CHARS:,} characters long: shorten it")
    if not where.strip():
        raise LookalikeError("`where` is empty: give a condition, or leave it out")
    node, condition = _parse(where)
    if node != _bare_query():
        raise LookalikeError("`where` takes one condition: leave everything after it out")
    named: list[str] = []
    for part in _parts(condition):
        kind = part["class"]
        if kind == "COLUMN_REF":
            named.append(".".join(part["column_names"]))
        if kind == "FUNCTION" and part["function_name"] not in _FUNCTIONS:
            raise LookalikeError(
                f"`where` cannot call {part['function_name']!r}: compare columns with values, or "
                "use like, lower, contains or year"
            )
        if kind not in _CLASSES:
            raise LookalikeError(
                f"`where` cannot have a {kind.lower().replace('_', ' ')}: compare columns with "
                "values"
            )
    return tuple(named)


@lru_cache(1)
def _bare_query() -> Any:
    return _parse("true")[0]


def _parse(where: str) -> tuple[Any, Any]:
    """Return the parsed query without its condition, and the condition.

    https://duckdb.org/docs/stable/data/json/sql_to_and_from_json
    """
    import duckdb

    query = _QUERY.format(where)
    try:
        with duckdb.connect(config={"autoinstall_known_extensions": False}) as sql:
            (answer,) = fetch_row(sql, "select json_serialize_sql($query)", {"query": query})
        parsed = json.loads(answer)
        if parsed["error"]:
            raise LookalikeError(f"`where` is no SQL: {_line(parsed['error_message'])}")
        (statement,) = parsed["statements"]
        node = statement["node"]
        return node, node.pop("where_clause", None)
    except (duckdb.Error, UnicodeError, RecursionError) as error:
        raise LookalikeError(f"`where` is no SQL: {_line(error)}") from None
    except (ValueError, KeyError):
        raise LookalikeError("`where` takes one condition: leave everything after it out") from None


def _line(error: object) -> str:
    return str(error).partition("\n")[0][:200]


def _parts(tree: object) -> Iterator[dict[str, Any]]:
    """Yield the expressions of a parsed condition."""
    left = [tree]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if "class" in one:
                yield one
            left += one.values()
        elif isinstance(one, list):
            left += one


def _numbers_where(segments: "Sequence[Segment]", where: str) -> Numbers:
    """Return the ids of the rows that a checked condition holds for, int64 (n,)."""
    files = local_rows(segment.file for segment in segments)
    schema = schema_in(pq.read_schema(files[0]))
    columns = {**_COLUMNS, **{name: _in_utc(schema.field(name)) for name in kept_of(schema)}}
    if KEY in schema.names:
        columns["id"] = KEY
    known = {name.lower() for name in columns}
    if unknown := [name for name in columns_of(where) if name.lower() not in known]:
        raise LookalikeError(
            f"`where` names an unknown column {unknown[0]!r}: choose {', '.join(columns)}, and put "
            "text in single quotes"
        )
    named = ", ".join(f'{of} as "{name}"' for name, of in columns.items())
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        try:
            with connect(Path(folder)) as sql:
                create_view(sql, "stored", *files)
                shown = f"select id as _number, {named} from stored where status = 'ok'"
                sql.execute(f"create view rows as {shown}")
                query = f"select _number from rows where (\n{where}\n)"
                return np.asarray(sql.execute(query).fetchnumpy()["_number"])
        except LookalikeError as error:
            raise LookalikeError(f"`where` cannot be evaluated: {_line(error)}") from None


def _in_utc(field: pa.Field) -> str:
    """Return a kept column for SQL; of times those in UTC, wherever this process runs."""
    return f'"{field.name}"' + (" at time zone 'UTC'" if pa.types.is_timestamp(field.type) else "")


def _tuple(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    return (given,) if isinstance(given, str) else tuple(given)
