"""Follow an index: serve its newest version while other processes write."""

import logging
import threading

from lookalike.server.snapshot import Snapshot
from lookalike.storage import EmbeddingTable, copy_at

POLL_SECONDS = 1.0
"""Time between two checks for a newer version."""
STORE_POLL_SECONDS = 5.0
"""The same for an index in a store, where each check is a request."""
log = logging.getLogger("uvicorn.error")
"""The log that uvicorn prints."""


class Refresher:
    """Holds a snapshot of the newest version. Requests keep the snapshot that they started with."""

    def __init__(self, table: EmbeddingTable) -> None:
        self.snapshot = Snapshot(table)
        self.error = ""
        """Why the newest version cannot be opened, empty if it can."""
        self._stopped = threading.Event()

    def start(self) -> None:
        """Prepare the first version, then follow newer ones in a thread until `stop`."""
        # A daemon: preparing the signatures of a large index takes half a minute.
        threading.Thread(target=self._follow, name="refresher", daemon=True).start()

    def stop(self) -> None:
        """Stop following."""
        self._stopped.set()

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
        self.snapshot.measure_bands()
