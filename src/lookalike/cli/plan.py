"""The command that says what a search on Spark will cost."""

from typing import Annotated, Literal

import typer

from lookalike.cli.options import AsJson, IndexArgument, K, Recall
from lookalike.cli.output import answers, show_json
from lookalike.system.defaults import TARGET_RECALL


def plan(
    index: IndexArgument,
    job: Annotated[
        Literal["neighbors"], typer.Argument(metavar="JOB", help="The command: `neighbors`.")
    ],
    k: K = 10,
    recall: Recall = TARGET_RECALL,
    as_json: AsJson = False,
) -> None:
    """Say what a search on Spark will cost, before it runs: bytes, memory, core-hours.

    Some rows are read, and tasks of Spark try the search on them.

    Example: `lookalike plan cars.index neighbors -k 10`
    """
    from lookalike.search.knn.cost import estimate
    from lookalike.spark import progress, session
    from lookalike.storage import EmbeddingTable

    table = EmbeddingTable.open(index)
    spark = session()
    with progress(spark, "trying it on some rows"):
        cost = estimate(spark, table, k, recall)
    if as_json:
        show_json({"job": job, **cost.to_dict()})
    else:
        answers.print(str(cost), markup=False)
