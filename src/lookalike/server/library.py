"""The index that is served, at its newest version: others may write into it meanwhile."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from lookalike.index import Index
from lookalike.server.shelf import Shelf

LOOK_SECONDS = 1.0
"""From one look for a newer version to the next."""
_log = logging.getLogger(__name__)


class Library:
    """Holds the newest version that is ready; who has begun with another finishes with that."""

    def __init__(self, index: Index) -> None:
        self.shelf = Shelf(index)
        self.trouble = ""
        """Why the newest version cannot be opened, if it cannot."""

    async def follow(self) -> None:
        """Get the first version ready, then move on whenever there is a newer one. Never ends."""
        while True:
            try:
                await asyncio.to_thread(self._look)
                self.trouble = ""
            except Exception as error:  # whatever is wrong with it, the version at hand is good
                said, self.trouble = self.trouble, " ".join(str(error).split())
                if self.trouble != said:
                    _log.warning("no newer version: %s", self.trouble)
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        self.shelf.get_ready()
        newest = self.shelf.index.collection.newest()
        if newest is not self.shelf.index.collection:
            shelf = Shelf(Index(newest))
            shelf.get_ready()
            self.shelf = shelf

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Follow the index while the block runs."""
        following = asyncio.create_task(self.follow())
        try:
            yield
        finally:
            following.cancel()
