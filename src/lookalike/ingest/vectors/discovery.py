"""List the rows of a table of vectors, and compare them with the index."""

from pathlib import Path

from lookalike.errors import LookalikeError
from lookalike.ingest.diff import OnChange, Plan
from lookalike.ingest.job_inputs import Inputs
from lookalike.ingest.vectors import on_spark
from lookalike.ingest.vectors.inputs import VectorInput
from lookalike.ingest.vectors.plan import check_names, list_rows, plan_rows
from lookalike.storage import EmbeddingTable


def discover_vectors(
    vectors: VectorInput,
    stored: EmbeddingTable | None,
    staging: Path,
    on_change: OnChange | None = None,
) -> tuple[Inputs, Plan | None]:
    """List the rows of a table and compare them with the index, if there is one.

    A new index reads the names of rows alone; later their vectors are compared too.

    Raises
    ------
    LookalikeError
        If there are no rows, or rows without a key or with the same key.

    """
    vectors = vectors.kept(staging)
    rows = None
    if vectors.frame is not None:
        counted = on_spark.count_named(vectors)
        rows = on_spark.rows_frame(vectors, counted)
        count = counted.rows
        listing = []
        if stored is not None:
            listing = on_spark.list_frame(vectors, rows, staging / "listing")
    else:
        listing = [staging / "listing.parquet"]
        count = list_rows(vectors, listing[0], whole=stored is not None)
        check_names(vectors, listing, staging)
    if not count:
        raise LookalikeError(f"{vectors.name} has no rows: nothing was changed")
    if stored is None:
        return Inputs(count, frame=rows, vectors=vectors), None
    plan = plan_rows(stored, listing, staging, on_change)
    inputs = Inputs(
        plan.count, frame=rows, vectors=vectors, wanted=plan.to_read, first_id=plan.first_id
    )
    return inputs, plan
