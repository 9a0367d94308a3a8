"""The public `Index`: thin methods, each of which calls the module that does the work."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, cast, overload

from lookalike.analysis import info as facts
from lookalike.analysis import run
from lookalike.analysis.info import VersionInfo
from lookalike.errors import LookalikeError
from lookalike.lsh import search
from lookalike.models.embedder import ImageEmbedder
from lookalike.search import frames, table_function
from lookalike.search.bands.kept import bands_of
from lookalike.search.bands.limits import Bands
from lookalike.search.bands.names import Band
from lookalike.search.engines import Engine
from lookalike.search.filters import Filter
from lookalike.search.knn import export
from lookalike.search.query import (
    QueryLike,
    SearchByIdOptions,
    SearchByIdsOptions,
    SearchByTextOptions,
    SearchByTextsOptions,
    SearchOptions,
    make_embedder,
)
from lookalike.search.regions import of_index as regions
from lookalike.search.regions.maintenance import check_derived
from lookalike.search.results import ImageSample, SearchResult, draw_sample
from lookalike.search.searcher import Searcher
from lookalike.storage import EmbeddingTable, maintenance, name_of
from lookalike.system.defaults import TARGET_RECALL
from lookalike.system.paths import Name

if TYPE_CHECKING:
    from lookalike.ingest import Changed, ModelOptions, Photos, ReadOptions, Report, Upgraded
    from lookalike.ingest.diff import OnChange
    from lookalike.models import CallableModel


class Index:
    """An index on disk, opened at one version: `create_index` makes one, `open_index` opens it.

    It stays at that version, whatever others write, until it changes the index itself or
    `refresh` is called. Searching starts neither a JVM nor torch. `report` says what
    `create_index` did; it is None where the index was opened.

    Examples
    --------
    >>> len(index) == len(photos)
    True
    >>> [neighbor.rank for neighbor in index.search(photos[0], k=3)]
    [1, 2, 3]

    """

    report: "Report | None" = None

    def __init__(self, table: EmbeddingTable) -> None:
        self._table = table

    def __len__(self) -> int:
        return self._table.counts()[0]

    def __repr__(self) -> str:
        backbone, what = self._table.about_model["backbone"], self._table.row_name
        return f"Index({name_of(self.path)!r}, {len(self):,} {what}, {backbone})"

    @property
    def path(self) -> Path:
        """The folder of the index; of one in a store, its local copy."""
        return self._table.path

    @property
    def embedder(self) -> ImageEmbedder:
        """The embedder that made the vectors of this index."""
        return make_embedder(self._table)

    @property
    def bands(self) -> Bands:
        """What a distance means: the limits of "same photo", "close", "similar" in this index."""
        return bands_of(self._searcher)

    @cached_property
    def _searcher(self) -> Searcher:
        return Searcher(self._table)

    @overload
    def search(  # type: ignore[overload-overlap]  # a str is a path, not a list
        self, image: QueryLike, k: int | None = None, **options: Unpack[SearchOptions]
    ) -> SearchResult: ...
    @overload
    def search(  # type: ignore[overload-overlap]
        self, image: None = None, k: int | None = None, **options: Unpack[SearchByIdOptions]
    ) -> SearchResult: ...
    @overload
    def search(
        self, image: None = None, k: int | None = None, **options: Unpack[SearchByIdsOptions]
    ) -> list[SearchResult]: ...
    @overload
    def search(  # type: ignore[overload-overlap]
        self, image: None = None, k: int | None = None, **options: Unpack[SearchByTextOptions]
    ) -> SearchResult: ...
    @overload
    def search(
        self, image: None = None, k: int | None = None, **options: Unpack[SearchByTextsOptions]
    ) -> list[SearchResult]: ...
    @overload
    def search(
        self, image: "Sequence[QueryLike]", k: int | None = None, **options: Unpack[SearchOptions]
    ) -> list[SearchResult]: ...

    def search(
        self,
        image: "QueryLike | Sequence[QueryLike] | None" = None,
        k: int | None = None,
        *,
        id: "int | str | Sequence[int | str] | None" = None,
        text: str | Sequence[str] | None = None,
        engine: Engine = "auto",
        recall: float = TARGET_RECALL,
        within: float | None = None,
        label: str | Sequence[str] | None = None,
        path: str | Sequence[str] | None = None,
        where: str | None = None,
        explain: bool = False,
        min_band: Band | None = None,
        all_copies: bool = True,
    ) -> SearchResult | list[SearchResult]:
        """Find the nearest neighbours of an image, or of each image of a list.

        Parameters
        ----------
        image : str, Path, bytes, PIL.Image, array, tensor, Query, or a list of these
            What `ImageEmbedder` takes, a vector (width,) of the same model, or an image of a
            `sample`. Vectors of length 1 may come as an array (n, width). A file that is in the
            index is not its own neighbour.
        k : int, optional
            Number of neighbours: 5, or all within the distance where `within` is given.
        id : int, str or a list of these, optional
            Search with an image of the index instead, by its id, or by its key in vectors of your
            own.
        text : str or a list of these, optional
            Search with words instead, such as "a red coupe at night". The model of the index has to
            embed words, as those of `clip:` do.
        engine : {"auto", "exact", "approximate", "spark-lsh"}
            `exact` compares all vectors, `approximate` those with similar signatures, `auto` all
            while that is as quick. `spark-lsh` searches the hash tables of Spark ML.
        recall : float
            Share of the true neighbours that approximate search has to find, over 0 and up to 1.
        within : float, optional
            Largest distance, 0 to 2 unless the metric is `l2`; searched exactly.
        label, path : str or list of str, optional
            Only images with one of these labels, whose path below the root matches one of these
            globs; `*` matches slashes too.
        where : str, optional
            Only images for which a condition in SQL holds, such as `"width > 640 and label like
            'Audi%'"`, on `id, path, label, width, height, size, modified, content_hash`.
        explain : bool
            With `spark-lsh`, list the hash tables that each neighbour shares with the query.
        min_band : {"same photo", "close", "similar", "weak"}, optional
            Leave out neighbours of a weaker band than this (`bands`).
        all_copies : bool
            False collapses the copies of one photo, by the limit of "same photo", into one result
            with their number (`Neighbor.copies`); `k` counts these results.

        Returns
        -------
        SearchResult, or a list of them
            Neighbours, nearest first. Distances are Euclidean, between vectors of length 1 unless
            the metric is `l2`.

        Raises
        ------
        LookalikeError
            If an option or a vector is wrong, or the filters choose no image.
        ImageError
            If an image cannot be decoded.

        Examples
        --------
        >>> index.search(photos[0], k=2, engine="exact").engine
        'exact'

        """
        options: SearchOptions = {
            "engine": engine,
            "recall": recall,
            "within": within,
            "label": label,
            "path": path,
            "where": where,
            "explain": explain,
            "min_band": min_band,
            "all_copies": all_copies,
        }
        return search.find(self._searcher, image, id, text, k, options)

    kneighbors = export.kneighbors
    build_regions = regions.build_regions_of

    def sample(
        self, n: int = 10, seed: int | None = None, label: str | Sequence[str] | None = None
    ) -> ImageSample:
        """Draw images at random; in a notebook they show as pictures.

        Parameters
        ----------
        n : int
            Number of images; fewer if there are not so many.
        seed : int, optional
            Random seed for sampling.
        label : str or list of str, optional
            Only images with one of these labels.

        Returns
        -------
        ImageSample
            A sequence of `Query`, each of which `search` takes.

        Examples
        --------
        >>> len(index.search(index.sample(1, seed=0)[0], k=4))
        4

        """
        return draw_sample(self._searcher.rows, self._table.source, n, seed, Filter.of(label))

    def add(
        self,
        photos: "Photos",
        *,
        dry_run: bool = False,
        on_change: "OnChange | None" = None,
        **options: "Unpack[ReadOptions]",
    ) -> "Changed":
        """Embed the images that are new or changed, and move on to the version that has them.

        An image is unchanged while its path, size and modification time are. Bytes that are known
        by another path are not embedded again.

        Parameters
        ----------
        photos : str, Path or a list of these; DataFrame
            A folder, file, glob, URI or table of images, or a DataFrame as the index was made of.
        dry_run : bool
            Only report what would change.
        on_change : callable, optional
            Called with a sign, `+` for new, `~` for changed, `-` for removed, and a path.
        **options
            How images are read: the keywords of `lookalike.ingest.ReadOptions`.

        Returns
        -------
        lookalike.ingest.Changed
            Counts of new, changed, removed and skipped images.

        """
        from lookalike import ingest

        read = ingest.Options(**options)
        done = ingest.add(self._table, photos, read, dry_run=dry_run, on_change=on_change)
        return self._changed(done)

    def sync(
        self,
        photos: "Photos | None" = None,
        *,
        dry_run: bool = False,
        on_change: "OnChange | None" = None,
        **options: "Unpack[ReadOptions]",
    ) -> "Changed":
        """Make the index equal to its folder: `add`, and remove the images that are gone.

        Parameters and result are those of `add`; without `photos` the folder is that of the
        index, else only images in `photos` can be removed.
        """
        from lookalike import ingest

        read = ingest.Options(**options)
        done = ingest.sync(self._table, photos, read, dry_run=dry_run, on_change=on_change)
        return self._changed(done)

    def remove(
        self,
        names: "str | int | Sequence[str | int]",
        *,
        dry_run: bool = False,
        on_change: "OnChange | None" = None,
    ) -> "Changed":
        """Remove images from the index by path, folder or glob, your vectors by key. Files stay.

        `dry_run`, `on_change` and the result are those of `add`. Raises `LookalikeError`, and
        removes nothing, if a name matches no image.
        """
        from lookalike import ingest

        given = [str(one) for one in ([names] if isinstance(names, str | int) else names)]
        if not all(given):  # which would be the folder that this process is in
            raise LookalikeError("an empty name: name images, folders or globs")
        done = ingest.remove(self._table, given, dry_run=dry_run, on_change=on_change)
        return self._changed(done)

    def upgrade(
        self, model: "str | CallableModel", **options: "Unpack[ModelOptions]"
    ) -> "Upgraded":
        """Embed all images with another model, and switch to it in one commit.

        Searches answer from the old vectors until then. A killed call continues where it was.

        Parameters
        ----------
        model : str
            As in `create_index`.
        **options
            The keywords of `lookalike.ingest.ModelOptions`.

        Returns
        -------
        lookalike.ingest.Upgraded
            The figures of the index before and after.

        """
        from lookalike import ingest

        table, upgraded = ingest.upgrade(self._table, ingest.Options(model=model, **options))
        self._move_to(table)
        return upgraded

    def versions(self) -> list[VersionInfo]:
        """Return what is known of each version of the index, newest first."""
        return cast("list[VersionInfo]", self._table.history())

    def refresh(self) -> bool:
        """Move on to the newest version; return whether there was a newer one."""
        moved = not self._table.is_newest()
        if moved:
            self._move_to(self._table.newest())
        return moved

    def _move_to(self, table: EmbeddingTable) -> None:
        self._table = table
        self.__dict__.pop("_searcher", None)

    def _changed(self, done: "tuple[EmbeddingTable, Changed]") -> "Changed":
        table, changed = done
        if table is not self._table:
            self._move_to(table)
        return changed

    def check(self) -> maintenance.Checked:
        """Check the index; `open_index(..., check_files=False)` opens a damaged one."""
        return maintenance.check(self._table, check_derived)

    def repair(self) -> maintenance.Repaired:
        """Repair the index, and move on to the version that is whole.

        Images that are lost with damaged files are embedded again by `sync`, from their photos.
        """
        repaired = maintenance.repair(self._table, check_derived)
        if not repaired.found.ok:
            self._move_to(self._table.reopen())
        return repaired

    def vacuum(self, keep_days: float = 7, *, dry_run: bool = False) -> maintenance.Vacuumed:
        """Delete the data of versions that were superseded more than `keep_days` days ago.

        They can no longer be opened. With `dry_run` only the counts are returned.
        """
        vacuumed = maintenance.vacuum(self._table, keep_days, dry_run=dry_run)
        self.refresh()
        return vacuumed

    def relocate(self, root: Name) -> None:
        """Write down where the photos are now, after their folder was moved.

        Raises `LookalikeError` if none of 20 images drawn at random is below `root`.
        """
        from lookalike.ingest.relocate import relocate

        self._move_to(relocate(self._table, root))

    to_arrow = frames.to_arrow
    to_pandas = frames.to_pandas
    to_polars = frames.to_polars
    to_spark = frames.to_spark
    register_function = table_function.register_function
    info = facts.describe
    evaluate = facts.evaluate
    pairs = run.find_pairs
    duplicates = run.find_duplicates
    clusters = run.find_clusters
    outliers = run.find_outliers
    gallery = run.make_gallery
    set_aside = run.set_aside
