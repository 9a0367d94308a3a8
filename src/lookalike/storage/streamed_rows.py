"""Read data files without leaving anything on the disk, as the tasks of a cluster do."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.storage.remote.copies import copy_of
from lookalike.storage.segments import BATCH_ROWS, row_batches, unreadable


def stream_rows(file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield columns of a data file in batches; of an index in a store from there.

    Raises `LookalikeError` where the file is gone or damaged.
    """
    copy = copy_of(file)
    if copy is None or file.exists():
        yield from row_batches(file, list(columns))
        return
    try:
        with pq.ParquetFile(
            copy.store.open(copy.name(file)), page_checksum_verification=True, pre_buffer=True
        ) as stored:
            yield from stored.iter_batches(BATCH_ROWS, columns=list(columns))
    except FileNotFoundError:
        raise unreadable(file, "is missing") from None
    except (pa.ArrowException, ValueError) as error:
        raise unreadable(file, f"is damaged ({error})") from None
