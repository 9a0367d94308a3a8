"""What is found in a collection as a whole, each in a folder with tables, figures and pictures."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.engine import Engine, check_engine
from lookalike.errors import LookalikeError
from lookalike.extras import require
from lookalike.given import Name, local_path
from lookalike.groupings import showing
from lookalike.groupings.applying import set_aside_found
from lookalike.groupings.showing import IN_GALLERY, SHOWN
from lookalike.groups import alignment, clusters, outliers, overview, pairs, threshold
from lookalike.groups.aside import Aside, How
from lookalike.groups.duplicates import TABLE, Keep, duplicates
from lookalike.groups.graph import check_same_model, write_graph
from lookalike.groups.results import Found, finding
from lookalike.groups.verifying import count_agreeing, count_compared
from lookalike.groups.verifying import verify as looked_at
from lookalike.search import check_seed
from lookalike.searcher import RECALL
from lookalike.storage import EmbeddingTable

__all__ = ["Groupings"]

_VOTERS = 20  # neighbours that are asked for their labels


class Groupings:
    """What an index can say of its images as a whole.

    Each answer is a folder of its own that comes whole or not at all: tables of Parquet, figures in
    `found.json`, and pictures in `index.html`, of so many groups as `shown` says; 0 for none.
    """

    collection: EmbeddingTable

    def join(
        self,
        out: Name,
        other: "Groupings | Name | None" = None,
        *,
        within: float | None = None,
        k: int | None = None,
        cap: int = pairs.CAP,
        verify: bool = False,
        engine: Engine = "auto",
        recall: float = RECALL,
        spark: bool | None = None,
        shown: int = SHOWN,
        overwrite: bool = False,
    ) -> Found:
        """Find pairs of images within a distance: of this index, or of this one and another.

        The table has `a_id, b_id, a_path, b_path, distance`, nearest first, each pair once; `b` is
        of the other index, whose images ask. An image brings in its `cap` nearest at most, or its
        `k` nearest; the figures say how many had more (`cut`), and what share of the true pairs
        of some drawn images was found (`recall`). With neither `within` nor `k` a distance is
        suggested. With `verify` a column `agreement` says how well the pixels of both agree, from
        `groups.alignment.AGREES` on they show the same; `agreeing` in the figures counts those.
        `engine="spark-lsh"` is Spark ML's `approxSimilarityJoin`, with the same meaning of
        distance, where what it shuffles fits on the disk.
        """
        check_engine(engine)
        if verify:
            require("comparing pixels", "cv2")
        opened = EmbeddingTable.open(other) if isinstance(other, str | os.PathLike) else other
        second = opened.collection if isinstance(opened, Groupings) else opened
        asking = second or self.collection
        check_same_model(self.collection, asking)
        with self._finding(out, "pairs", overwrite, shown, recall) as (folder, figures):
            if engine == "spark-lsh" and k is not None:
                raise LookalikeError("Spark ML joins within a distance: say --within, and no -k")
            if within is None and k is None:
                within = threshold.suggest(self.collection, verify).within
            figures |= pairs.join(
                self.collection,
                folder,
                np.inf if within is None else within,
                cap if k is None else k,
                second,
                engine=engine,
                recall=recall,
                spark=spark,
            )
            if k is not None:
                figures["cut"] = 0  # who asks for k gets k
            if verify:
                looked_at(folder / "pairs", self.collection.source, asking.source, figures["spark"])
                figures["agreeing"] = count_agreeing(folder / "pairs")
                figures |= count_compared(folder / "pairs")
            if shown:
                showing.pairs(folder, self.collection, asking, figures, shown)
        return Found.open(out)

    def duplicates(
        self,
        out: Name,
        *,
        within: float | None = None,
        keep: Keep = "largest",
        verify: bool = True,
        agrees: float = alignment.AGREES,
        cap: int = pairs.CAP,
        recall: float = RECALL,
        spark: bool | None = None,
        shown: int = SHOWN,
        overwrite: bool = False,
    ) -> Found:
        """Find what is there more than once: tight groups, with one image of each to keep.

        Every member is within the distance of the one to keep, and, with `verify`, its pixels agree
        with that one's by `agrees` or more once laid over it (`groups.alignment`): it shows the
        same, cropped, scaled, mirrored or compressed again. Without `within` a distance is
        suggested from the images. The table has `group, action` (keep or drop)`, id, path, label,
        agreement, distance, same_bytes, width, height, size, kept_path`. `keep` is `largest`,
        `oldest`, `sharpest` or `first` (by path). `threshold.png` shows pairs from around what
        decided. Nothing happens to the images: `set_aside` does that.
        """
        require("finding duplicates", "cv2")
        with self._finding(out, TABLE, overwrite, shown, recall) as (folder, figures):
            figures |= duplicates(
                self.collection,
                folder,
                within,
                keep=keep,
                verify=verify,
                agrees=agrees,
                cap=cap,
                recall=recall,
                spark=spark,
            )
            if shown:
                showing.duplicates(folder, self.collection, figures, shown)
                limit = agrees if verify else None
                showing.threshold_sheet(folder, self.collection, figures["within"], limit)
        return Found.open(out)

    def set_aside(self, found: Found, how: How, to: Name) -> Aside:
        """Move, copy, link or list the images to drop; `groups.aside.undo(to)` takes that back.

        Images that are no longer what they were when they were compared stay, and so do those whose
        one to keep is not.
        """
        return set_aside_found(self.collection, found, how, local_path(to))

    def clusters(
        self,
        out: Name,
        *,
        resolution: float = 1.0,
        least: int = 2,
        k: int = 15,
        recall: float = RECALL,
        spark: bool | None = None,
        shown: int = SHOWN,
        overwrite: bool = False,
    ) -> Found:
        """Find images that belong together, by Leiden's algorithm on the graph of `k` neighbours.

        Unlike connected components clusters do not chain (`groups.clusters`). The table has
        `cluster` (0 the largest)`, id, path, label, representative, weight`; images in no cluster
        of `least` are not in it. A `resolution` above 1 makes more and smaller clusters.
        """
        require("finding clusters", "networkit")
        with self._finding(out, clusters.TABLE, overwrite, shown, recall) as (folder, figures):
            with _graph(self.collection, folder, k, recall, spark) as graph:
                figures |= clusters.cluster(
                    self.collection, graph, folder, resolution=resolution, least=least
                )
            if shown:
                showing.clusters(folder, self.collection, figures, shown)
        return Found.open(out)

    def outliers(
        self,
        out: Name,
        *,
        k: int = 15,
        recall: float = RECALL,
        spark: bool | None = None,
        shown: int = SHOWN,
        overwrite: bool = False,
    ) -> Found:
        """Rank images by how unlike the rest of the collection they are (`groups.outliers`).

        The table has all of them, the most isolated first: `rank, id, path, label, distance` (to
        the k-th neighbour)`, density` (local)`, score`. `suspects.parquet` beside it has images
        whose neighbours carry another label: `rank, id, path, label, suggested, score`.
        """
        with self._finding(out, outliers.TABLE, overwrite, shown, recall) as (folder, figures):
            voters = max(k, _VOTERS)
            with _graph(self.collection, folder, voters, recall, spark) as graph:
                figures |= outliers.outliers(self.collection, graph, folder, k)
                figures |= outliers.suspects(self.collection, graph, folder, voters) | {"k": k}
            if shown:
                showing.outliers(folder, self.collection, figures, shown)
        return Found.open(out)

    def gallery(
        self,
        out: Name,
        *,
        k: int = 15,
        seed: int = 0,
        recall: float = RECALL,
        spark: bool | None = None,
        shown: int = IN_GALLERY,
        overwrite: bool = False,
    ) -> Found:
        """Make a folder to look through first: what is in a collection that nobody knows yet.

        `index.html` shows `shown` each of the most typical images, of images drawn with `seed` and
        their nearest neighbours, of the most isolated images, of the nearest pairs, and of labels
        that may be wrong. It needs nothing but its folder, which can be zipped and sent. The table
        has what is shown (`groups.overview`). `k` neighbours of each image count.
        """
        overview.check_count(shown)  # before the work that the graph is
        check_seed(seed)
        with self._finding(out, overview.TABLE, overwrite, shown, recall) as (folder, figures):
            voters = max(k, _VOTERS)
            with _graph(self.collection, folder, voters, recall, spark) as graph:
                figures |= outliers.outliers(self.collection, graph, folder, k)
                figures |= outliers.suspects(self.collection, graph, folder, voters)
                figures |= overview.overview(self.collection, graph, folder, shown, k, seed)
            for table in (outliers.TABLE, outliers.SUSPECTS):  # of all images: not to be sent
                (folder / table).unlink()
            showing.gallery(folder, self.collection, figures)
        return Found.open(out)

    def _finding(
        self, out: Name, table: str, overwrite: bool, shown: int, recall: float
    ) -> AbstractContextManager[tuple[Path, dict[str, Any]]]:
        if shown < 0:
            raise LookalikeError(f"shown is {shown}: give 0 or more")
        if not 0 < recall <= 1:
            raise LookalikeError(f"recall {recall} is not over 0 and up to 1: say 1 to compare all")
        return finding(local_path(out), table, self.collection.source, overwrite)


@contextmanager
def _graph(
    collection: EmbeddingTable, folder: Path, k: int, recall: float, spark: bool | None
) -> Iterator[Path]:
    graph = folder / "graph"
    write_graph(collection, graph, k, recall=recall, spark=spark)
    yield graph
    shutil.rmtree(graph)
