"""A process that lays out an index: `python -m lookalike.analysis.map INDEX VERSION`.

Only `job.Job` starts it. It writes lines with its progress to standard output, then `DONE` and the
arrays of the layout, or `FAILED` and the reason. It ends when its standard input closes.
"""

import io
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import BinaryIO

import faiss
import numpy as np

from lookalike.analysis.map.cache import load_older_layout, pack
from lookalike.analysis.map.job import DONE, FAILED
from lookalike.analysis.map.tsne import lay_out, with_changes
from lookalike.errors import LookalikeError
from lookalike.search.rows import Rows
from lookalike.storage import EmbeddingTable
from lookalike.system.resources import cores


def main() -> None:
    """Lay out the index that the command line names."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes
    threading.Thread(target=_exit_with_caller, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)
    faiss.omp_set_num_threads(cores())
    warnings.simplefilter("ignore")
    # Keep the output of libraries out of the answers.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        try:
            _write_layout(out, Path(sys.argv[1]), int(sys.argv[2]))
        except LookalikeError as error:
            out.write(f"{FAILED} {error}\n".encode(errors="replace"))


def _write_layout(out: BinaryIO, path: Path, version: int) -> None:
    def move(share: float, doing: str) -> None:
        out.write(f"{share:.3f} {doing}\n".encode())
        out.flush()

    table = EmbeddingTable.open(path, version)
    rows = Rows(table.segments)
    before = load_older_layout(table)
    layout = (before and with_changes(rows, before)) or lay_out(rows, move)
    arrays = io.BytesIO()
    np.savez(arrays, allow_pickle=False, **pack(layout))
    out.write(f"{DONE}\n".encode())
    out.write(arrays.getbuffer())


def _exit_with_caller() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
