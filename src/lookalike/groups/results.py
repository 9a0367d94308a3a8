"""What was found in a collection: a folder of Parquet tables, with the figures about them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lookalike.collection import make_free, put_in_place, staging_folder
from lookalike.errors import LookalikeError
from lookalike.images import Source, encode_path
from lookalike.images.sources import looked_at
from lookalike.spark import local_uri, session
from lookalike.untrusted import read_json

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame, SparkSession

_ABOUT = "found.json"


@dataclass(frozen=True)
class Found:
    """What was found, in a folder: `figures`, and `table`, a file or folder of Parquet."""

    folder: Path
    table: str
    figures: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open what was found earlier. Raises `LookalikeError` where there is nothing of it."""
        folder = Path(folder)
        try:
            about = read_json(folder / _ABOUT)
            return cls(folder, str(about.pop("table")), about)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise LookalikeError(
                f"{folder} holds nothing that lookalike found ({error}): make it again"
            ) from None

    def to_pandas(self) -> "pd.DataFrame":
        """Return the table as a pandas DataFrame, which holds all of it in memory."""
        import pandas as pd

        return pd.read_parquet(self.folder / self.table)

    def dataframe(self, spark: "SparkSession | None" = None) -> "DataFrame":
        """Return the table as a Spark DataFrame."""
        return (spark or session()).read.parquet(local_uri(self.folder / self.table))


@contextmanager
def finding(
    out: Path, table: str, source: Source, overwrite: bool
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give an empty folder and a dict of figures, which become `out` when the block ends well.

    Raises `LookalikeError` where `out` is taken and may not be replaced, and where its pictures
    would be found as images of the source.
    """
    if (found := looked_at(source, out)) is not None:
        raise LookalikeError(
            f"{out} lies in {encode_path(found)}, where its pictures would be taken for images: "
            "choose an --out elsewhere"
        )
    make_free(out, overwrite)
    if out.exists() and not (out / _ABOUT).is_file():
        raise LookalikeError(f"{out} is something else: give another --out")
    with staging_folder(out) as staging:
        folder = staging / "out"
        folder.mkdir()
        figures: dict[str, Any] = {}
        yield folder, figures
        about = json.dumps({"table": table, **figures}, indent=1)
        (folder / _ABOUT).write_text(about + "\n")
        put_in_place(folder, out)
