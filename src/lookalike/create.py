"""`create_index` and `open_index`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lookalike.index import Index
from lookalike.models import CallableModel, resolve
from lookalike.storage import EmbeddingTable
from lookalike.system.defaults import WAVE_IMAGES
from lookalike.system.paths import Name

if TYPE_CHECKING:
    from lookalike.ingest import Photos
    from lookalike.storage.own_vectors import Metric


def create_index(
    photos: "Photos",
    out: Name,
    *,
    overwrite: bool = False,
    labels: Name | None = None,
    image_name: str = "image",
    label_name: str = "Class",
    image_column: str | None = None,
    label_column: str | None = None,
    model: str | CallableModel = "auto",
    weights: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    like: Name | None = None,
    truncated: bool = False,
    spark: bool | None = None,
    wave: int = WAVE_IMAGES,
    embedding_column: str | None = None,
    id_column: str | None = None,
    path_column: str | None = None,
    keep_columns: Sequence[str] = (),
    metric: "Metric" = "cosine",
) -> Index:
    """Embed all images of a folder, glob, list, URI, table or DataFrame, or index your vectors.

    Where `out` is an index of the same images, it is continued: only what is new or changed is
    embedded. Images that cannot be decoded are kept with the reason.

    Parameters
    ----------
    photos : str, Path, or a list of these; or a DataFrame; or a table of vectors
        Folders, files or globs; or one URI or table of images; or tar and zip archives. A DataFrame
        of images, of Spark, pandas, Polars or Arrow: rows of `binaryFile`, paths, bytes, Spark's
        images, or structs of Hugging Face. Vectors of another network: Parquet (a file, folder or
        glob), Delta, CSV or `.npy`; a NumPy array (n, width); a table, reader or dataset of Arrow;
        a Spark DataFrame.
    out : str or Path
        The folder of the index.
    overwrite : bool
        Replace an index of other images, once the new one is complete.
    labels : str or Path, optional
        A CSV file with a label for each photo, or its URI in a store.
    image_name, label_name : str
        Columns of that file: the photo and its label.
    image_column, label_column : str, optional
        Columns of a table or DataFrame of images, where their types do not show which they are. For
        archives `label_column` is "cls", "txt" or "json.FIELD".
    model : str or CallableModel
        "efficientnet-lite0" (the default), "resnet18", another network of torchvision or, as
        "timm:NAME", "clip:NAME", "hf:NAME" or "sentence-transformers:NAME", of another library;
        an ONNX file; or a function of your own.
    weights : str
        Bundled weights, "imagenet", or a file.
    precision : {"auto", "f32", "bf16", "int8"}
        `auto` takes the fastest that agrees with f32 on a sample of these images.
    device : str
        "auto", "cpu" or "cuda".
    like : str or Path, optional
        An index whose model is used, so that the two can be compared.
    truncated : bool
        Embed images that were cut short too, as far as they go.
    spark : bool, optional
        True embeds on Spark, False in this process. Without it the number of files decides.
    wave : int
        Number of images between two commits: a killed run loses no more. Unless it is set, vectors
        are committed by 65,536, and very many inputs by a hundredth of them.
    embedding_column : str, optional
        The column of a table of vectors: lists of numbers, or vectors of Spark ML.
    id_column, path_column : str, optional
        Its columns of keys, whole numbers or strings, and of paths of pictures. Rows of a DataFrame
        of images are named by these, too.
    keep_columns : list of str, optional
        More columns of a table or DataFrame to keep: numbers, strings, dates and times.
        `search(where=...)` compares them, `to_arrow`, `to_pandas`, `to_polars` and `to_spark` give
        them back.
    metric : {"cosine", "l2"}
        Whether vectors are scaled to length 1, or kept as given.

    Returns
    -------
    Index
        The index, at its newest version. Its `report` has the counts.

    Raises
    ------
    LookalikeError
        If nothing can be indexed; `out` is then as it was.

    Examples
    --------
    >>> made = create_index(photos[:3], folder / "three.index")
    >>> made.report.images, len(made)
    (3, 3)

    """
    from lookalike.ingest import Options, build_index

    options = Options(
        labels=labels,
        image_name=image_name,
        label_name=label_name,
        image_column=image_column,
        label_column=label_column,
        model=model,
        weights=weights,
        precision=precision,
        device=device,
        spark=spark,
        wave=wave,
        like=like,
        truncated=truncated,
        embedding_column=embedding_column,
        id_column=id_column,
        path_column=path_column,
        keep_columns=keep_columns,
        metric=metric,
    )
    table, report = build_index(photos, out, options, overwrite)
    index = Index(table)
    index.report = report
    return index


def open_index(
    path: Name,
    version: int | None = None,
    *,
    model: CallableModel | None = None,
    check_files: bool = True,
) -> Index:
    """Open an index.

    Parameters
    ----------
    path : str or Path
        The folder of the index.
    version : int, optional
        An older version; without it the newest.
    model : CallableModel, optional
        The function that the index was made with, which is not stored: searching with images and
        adding some need it again.
    check_files : bool
        Raise if a data file is missing. `Index.check` and `Index.repair` work without.

    Returns
    -------
    Index
        The index at that version.

    Raises
    ------
    LookalikeError
        If there is no index, or no such version, or a data file is missing, or the index was made
        with another model.

    Examples
    --------
    >>> len(open_index(index.path)) == len(photos)
    True

    """
    table = EmbeddingTable.open(path, version, check_files=check_files)
    if model is not None:
        table.attach(resolve(model))
    return Index(table)
