"""The result of an analysis: a folder of Parquet tables, with figures."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
from pyarrow import csv

from lookalike.errors import LookalikeError
from lookalike.images import Source, encode_path
from lookalike.images.inputs.source import containing_folder
from lookalike.spark import local_uri, session
from lookalike.system.extras import require
from lookalike.system.files import check_free, new_file, put_in_place, staging_folder
from lookalike.system.paths import Name, local_path
from lookalike.system.untrusted import check_file_name, read_json, without_formulas

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame, SparkSession


_ABOUT = "found.json"


@dataclass(frozen=True)
class AnalysisResult:
    """The result of an analysis: `figures`, and `table`, a file or folder of Parquet."""

    folder: Path
    table: str
    figures: dict[str, Any]

    @classmethod
    def open(cls, folder: Name) -> Self:
        """Open the folder of an earlier result. Raises `LookalikeError` for any other folder."""
        folder = local_path(folder).absolute()
        try:
            about = read_json(folder / _ABOUT)
            return cls(folder, check_file_name(str(about.pop("table"))), about)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise LookalikeError(
                f"{folder} is not a result of lookalike ({error}): make it again"
            ) from None

    def to_pandas(self, table: str | None = None) -> "pd.DataFrame":
        """Return the table, or another one of the result, as a pandas DataFrame."""
        require("to_pandas", "pandas")
        import pandas as pd

        return pd.read_parquet(self.folder / (table or self.table))

    def to_csv(self, file: Name, *, no_formulas: bool = False) -> None:
        """Write the table as CSV, atomically.

        With `no_formulas` no text is a formula in a spreadsheet (`untrusted.without_formulas`).
        """
        import pyarrow.dataset as pds  # which imports pandas, if there is one

        table = pds.dataset(self.folder / self.table, format="parquet")
        with new_file(local_path(file)) as part, csv.CSVWriter(str(part), table.schema) as writer:
            for batch in table.to_batches():
                columns = [
                    without_formulas(column)
                    if no_formulas and pa.types.is_string(column.type)
                    else column
                    for column in batch.columns
                ]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=table.schema))

    def to_spark(
        self, spark: "SparkSession | None" = None, table: str | None = None
    ) -> "DataFrame":
        """Return the table, or another one of the result, as a Spark DataFrame."""
        return (spark or session()).read.parquet(local_uri(self.folder / (table or self.table)))


@contextmanager
def finding(
    out: Path, table: str, source: Source, overwrite: bool
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield an empty folder and a dict of figures; both become `out` when the block succeeds.

    Raises `LookalikeError` where `out` exists and may not be replaced, or lies in a folder of the
    source, whose next scan would find its pictures.
    """
    if (found := containing_folder(source, out)) is not None:
        raise LookalikeError(
            f"{out} lies in {encode_path(found)}, where its pictures would be taken for images: "
            "choose another `out`"
        )
    out = out.absolute()
    check_free(out, overwrite)
    if out.exists() and not (out / _ABOUT).is_file():
        raise LookalikeError(f"{out} is something else: choose another `out`")
    with staging_folder(out) as staging:
        folder = staging / "out"
        folder.mkdir()
        figures: dict[str, Any] = {}
        yield folder, figures
        about = json.dumps({"table": table, **figures}, indent=1)
        (folder / _ABOUT).write_text(about + "\n")
        put_in_place(folder, out, overwrite=overwrite)
