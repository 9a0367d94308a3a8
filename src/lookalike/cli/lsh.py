"""The commands for locality-sensitive hashing by Spark ML: hash, tune."""

from typing import Annotated, Literal

import typer

from lookalike.cli.options import AsJson, IndexArgument, Out, Overwrite, Recall, Seed
from lookalike.cli.output import answers, notes, show_json, show_parameters


def hash_(
    index: IndexArgument,
    out: Out,
    family: Annotated[
        Literal["projection", "minhash"],
        typer.Option(help="Hash vectors by `projection`, or their top features by `minhash`."),
    ] = "projection",
    overwrite: Overwrite = False,
) -> None:
    """Hash an index with Spark ML: write a column of buckets, and the model that made it.

    The result is a folder with `hashes` (Parquet) and `model`.

    Example: `lookalike hash cars.index -o cars.hashes`
    """
    from lookalike.lsh.search import load_hasher, write_hashes

    write_hashes(index, out, family, overwrite=overwrite)
    notes.print(f"wrote {out / 'hashes'} and {out / 'model'}", markup=False)
    if family == "projection":
        show_parameters(load_hasher(index).parameters)


def tune(
    index: IndexArgument,
    recall: Recall = 0.9,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Choose the parameters of hashing by Spark ML for a target recall, and compare schemes.

    Example: `lookalike tune cars.index --recall 0.9`
    """
    from lookalike.lsh.search import tune_index

    tuned = tune_index(index, recall, seed)
    if as_json:
        show_json(tuned.to_dict())
    else:
        answers.print(str(tuned), markup=False)
