"""The index that is served, at its newest version: others may write into it meanwhile."""

import logging
import threading

from lookalike.server.snapshot import Shelf
from lookalike.storage import EmbeddingTable

LOOK_SECONDS = 1.0
"""From one look for a newer version to the next."""
log = logging.getLogger("uvicorn.error")
"""Which shows what the server has to say."""


class Library:
    """Holds the newest version that is ready; who has begun with another finishes with that."""

    def __init__(self, table: EmbeddingTable) -> None:
        self.shelf = Shelf(table)
        self.trouble = ""
        """Why the newest version cannot be opened, if it cannot."""
        self._stopped = threading.Event()

    def start(self) -> None:
        """Get the first version ready, then move on whenever there is a newer one, until `stop`."""
        # Signatures of a large index take half a minute, which nobody waits for at the end.
        threading.Thread(target=self._follow, name="library", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _follow(self) -> None:
        while True:
            try:
                self._look()
                self.trouble = ""
            except Exception as error:  # whatever is wrong with it, the version at hand is good
                said, self.trouble = self.trouble, " ".join(str(error).split())
                if self.trouble != said:
                    log.warning("no newer version: %s", self.trouble)
            if self._stopped.wait(LOOK_SECONDS):
                return

    def _look(self) -> None:
        newest = self.shelf.table.newest()
        if newest is self.shelf.table:
            self.shelf.get_ready()
            return
        shelf = Shelf(newest)
        shelf.get_ready()
        self.shelf = shelf
