"""A process that lays out an index: `python -m lookalike.analysis.map INDEX VERSION`.

Only `job.Job` starts it.
"""

import io
import sys
from pathlib import Path

import numpy as np

from lookalike.analysis.background import Move, run_job
from lookalike.analysis.map.cache import load_older_layout, pack
from lookalike.analysis.map.tsne import lay_out, with_changes
from lookalike.search.rows import Rows
from lookalike.storage import EmbeddingTable


def main() -> None:
    """Lay out the index that the command line names."""
    run_job(_layout)


def _layout(move: Move) -> bytes:
    table = EmbeddingTable.open(Path(sys.argv[1]), int(sys.argv[2]))
    rows = Rows(table.segments)
    before = load_older_layout(table)
    layout = (before and with_changes(rows, before)) or lay_out(rows, move)
    arrays = io.BytesIO()
    np.savez(arrays, allow_pickle=False, **pack(layout))
    return arrays.getvalue()


if __name__ == "__main__":
    main()
