"""A process that lays out a collection: `python -m lookalike.layout INDEX VERSION`.

`job.Job` starts it and is its only caller. What it says goes to standard output: lines with how far
it is and with what, then `DONE` and the arrays of the layout, or `FAILED`
and why. It ends when its standard input does.
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

from lookalike.errors import LookalikeError
from lookalike.layout.job import DONE, FAILED
from lookalike.layout.keeping import kept_before, packed
from lookalike.layout.placing import lay_out, with_changes
from lookalike.search import Rows
from lookalike.spark import cores
from lookalike.storage import EmbeddingTable


def main() -> None:
    """Lay out the collection that the command line names."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all processes
    threading.Thread(target=_end_with_caller, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)
    faiss.omp_set_num_threads(cores())
    warnings.simplefilter("ignore")
    # What a library prints must not get among the answers.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        try:
            _answer(out, Path(sys.argv[1]), int(sys.argv[2]))
        except LookalikeError as error:
            out.write(f"{FAILED} {error}\n".encode(errors="replace"))


def _answer(out: BinaryIO, path: Path, version: int) -> None:
    def move(share: float, doing: str) -> None:
        out.write(f"{share:.3f} {doing}\n".encode())
        out.flush()

    collection = EmbeddingTable.open(path, version)
    rows = Rows(collection.segments)
    before = kept_before(collection)
    layout = (before and with_changes(rows, before)) or lay_out(rows, move)
    arrays = io.BytesIO()
    np.savez(arrays, allow_pickle=False, **packed(layout))
    out.write(f"{DONE}\n".encode())
    out.write(arrays.getbuffer())


def _end_with_caller() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
