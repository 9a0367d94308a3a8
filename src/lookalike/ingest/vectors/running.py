"""Choose between this process and Spark to write the rows of a table of vectors."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from lookalike.ingest.job_inputs import Inputs
from lookalike.ingest.options import Job
from lookalike.ingest.spark_job import write_on_spark
from lookalike.ingest.vectors.inputs import VectorInput
from lookalike.ingest.vectors.on_spark import for_tasks, rows_of_frame, with_ids
from lookalike.ingest.vectors.plan import map_wanted
from lookalike.ingest.vectors.tables import ParquetTable
from lookalike.ingest.vectors.write import (
    Deliver,
    Wanted,
    parts_of_tasks,
    rows_of_task,
    segment_rows,
    write_in_process,
)
from lookalike.ingest.wave_sizes import vector_wave
from lookalike.spark import is_spark_available, session
from lookalike.storage.remote.shared_files import sharing

MAX_ROWS_WITHOUT_SPARK = 2_000_000
"""Rows of a local table up to which this process reads it, where Spark runs too."""
_DOING = ("indexing", "vectors")


def write_vectors(
    job: Job, vectors: VectorInput, inputs: Inputs, folder: Path, deliver: Deliver
) -> None:
    """Write the rows of a table of vectors into segments; call `deliver` for each wave of them."""
    wave = vector_wave(job.wave, inputs.count)
    if inputs.frame is not None:
        frame = with_ids(vectors, inputs.frame, inputs.wanted, inputs.first_id)
        checked = for_tasks(vectors)

        def of_frame(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            return rows_of_frame(checked, batches)

        write_on_spark(
            frame, of_frame, folder, deliver, count=inputs.count, wave=wave, doing=_DOING
        )
        return
    rows = None
    if inputs.wanted is not None:
        rows = map_wanted(inputs.wanted, inputs.wanted.with_suffix(".npy"))
    wanted = Wanted(inputs.count, rows)
    table = vectors.table
    if not isinstance(table, ParquetTable) or not _uses_spark(job, inputs.count):
        write_in_process(vectors, wanted, job.wave, folder, deliver)
        return
    table.check_unchanged()
    tasks = parts_of_tasks(table, segment_rows(vectors.width))
    files = [] if inputs.wanted is None else [inputs.wanted.with_suffix(".npy")]
    count = inputs.count
    with sharing(*files) as shared:

        def of_parts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            chosen = Wanted.load(count, shared[0].local() if shared else None)
            for batch in batches:
                for number in batch["id"].to_pylist():
                    yield from rows_of_task(vectors, chosen, tasks[number])

        frame = session().range(0, len(tasks), 1, len(tasks))
        write_on_spark(frame, of_parts, folder, deliver, count=count, wave=wave, doing=_DOING)


def _uses_spark(job: Job, count: int) -> bool:
    if job.spark is not None:
        return job.spark
    return count > MAX_ROWS_WITHOUT_SPARK and is_spark_available()
