"""Follow an index: serve its newest version while other processes write."""

import logging
import threading

from lookalike.server.snapshot import Snapshot
from lookalike.storage import EmbeddingTable, copy_at

POLL_SECONDS = 1.0
"""Time between two checks for a newer version."""
STORE_POLL_SECONDS = 5.0
"""The same for an index in a store, where each check is a request."""
STOP_SECONDS = 4.0
"""Time that the end of a server waits for the thread."""
log = logging.getLogger("uvicorn.error")
"""The log that uvicorn prints."""


class Refresher:
    """Holds a snapshot of the newest version. Requests keep the snapshot that they started with."""

    def __init__(self, table: EmbeddingTable) -> None:
        self.snapshot = Snapshot(table)
        self.error = ""
        """Why the newest version cannot be opened, empty if it can."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="refresher", daemon=True)

    def start(self) -> None:
        """Prepare the first version, then follow newer ones in a thread until `stop`."""
        # A daemon: preparing the signatures of a large index takes half a minute.
        self._thread.start()

    def stop(self) -> None:
        """Stop following; wait a little for what measures, which an exit might crash."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _follow(self) -> None:
        while True:
            try:
                self._refresh()
                self.error = ""
            except Exception as error:  # go on with the current version
                previous, self.error = self.error, " ".join(str(error).split())
                if self.error != previous:
                    log.warning("cannot open the newest version: %s", self.error)
            in_store = copy_at(self.snapshot.table.path) is not None
            if self._stopped.wait(STORE_POLL_SECONDS if in_store else POLL_SECONDS):
                return

    def _refresh(self) -> None:
        newest = self.snapshot.table.newest()
        if newest is self.snapshot.table:
            self.snapshot.get_ready()
        else:
            snapshot = Snapshot(newest)
            snapshot.get_ready()
            self.snapshot = snapshot
        self.snapshot.read_sizes()
        self.snapshot.measure_bands()
