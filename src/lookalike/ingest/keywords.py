"""The keywords of methods of an index that read images or choose a model."""

from typing import TypedDict

from lookalike.system.paths import Name


class ReadOptions(TypedDict, total=False):
    """How to read images: the keywords of `create_index` without those of the model.

    Parameters
    ----------
    labels : str or Path
        A CSV file with a label for each photo.
    image_name, label_name : str
        Its columns for the photo and the label; "image" and "Class" by default.
    image_column, label_column : str
        The columns of a table of images, where their types do not show which they are.
    device : str
        Where the network runs: "auto", "cpu" or "cuda".
    spark : bool or None
        True reads and embeds on Spark, False in this process; None decides by the number of files.
    wave : int
        Number of images between two commits; 1,024 by default.

    """

    labels: Name | None
    image_name: str
    label_name: str
    image_column: str | None
    label_column: str | None
    device: str
    spark: bool | None
    wave: int


class ModelOptions(TypedDict, total=False):
    """Which weights of a model, and how it runs: keywords of `create_index`.

    Parameters
    ----------
    weights, precision, device : str
        Bundled weights, "imagenet" or a file; "auto", "f32", "bf16" or "int8"; "auto", "cpu" or
        "cuda".
    spark : bool or None
        True reads and embeds on Spark, False in this process; None decides by the number of files.
    wave : int
        Number of images between two commits; 1,024 by default.

    """

    weights: str
    precision: str
    device: str
    spark: bool | None
    wave: int
