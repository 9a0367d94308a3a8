"""What a search will cost: said from a sample, against what then happens."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers.clusters import clustered
from helpers.segments import Floats, collection_of
from lookalike import Index, LookalikeError
from lookalike.cli import app
from lookalike.search.knn import cost
from lookalike.search.knn.packing import packed_type
from lookalike.search.knn.tasks import ROUTED, Role, route_task
from lookalike.spark import session
from lookalike.spark.columns import ddl

ROWS, K = 24_000, 10


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(ROWS)


@pytest.fixture(scope="module")
def index(vectors: Floats, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("cost")
    return Index(collection_of(vectors, folder / "many.index", [8_000] * 3))


@pytest.fixture(scope="module")
def travelled(index: Index) -> tuple[Any, int]:
    """The plan of the search, and the bytes that its rows have on their way."""
    plan = index.kneighbors(k=K).plan
    assert plan.routing is not None
    packed = packed_type(plan.items.metric, plan.rows)
    task = route_task(
        plan.routing, plan.regions, Role(items=True, queries=True), plan.centre, packed, 8_192, 1
    )
    return plan, plan.items.read(task, ddl(ROUTED)).toArrow().nbytes


@pytest.mark.parametrize("scanned", [ROWS, 16_000])
def test_what_is_said_is_what_happens(
    index: Index,
    travelled: tuple[Any, int],
    scanned: int,
    monkeypatch: pytest.MonkeyPatch,
    vectors: Floats,
) -> None:
    monkeypatch.setattr(cost, "TRIAL_ROWS", 4_096)
    monkeypatch.setattr(cost, "MAX_SCANNED_ROWS", scanned)
    plan, bytes_ = travelled
    said = index.kneighbors(k=K).explain()
    assert (said.rows, said.width, said.k, said.engine) == (
        ROWS,
        vectors.shape[1],
        K,
        "approximate",
    )
    assert (said.regions, said.sampled) == (plan.regions, scanned)
    assert said.visits == pytest.approx(plan.visits, rel=0.3)
    assert said.candidates == pytest.approx(plan.effort.candidates, rel=0.5)
    # What the regions find travels too.
    found = ROWS * said.visits * K * 13
    assert said.shuffled_bytes - found == pytest.approx(bytes_, rel=0.3)
    assert all(seconds >= 0 for seconds in said.stages.values())
    assert said.core_hours == pytest.approx(sum(said.stages.values()) / 3600)
    assert said.hours * said.cores == pytest.approx(said.core_hours)


def test_few_rows_are_compared_with_all(vectors: Floats, tmp_path: Path) -> None:
    few = Index(collection_of(vectors[:3_000], tmp_path / "few.index", [3_000]))
    said = few.kneighbors(k=K).explain()
    plan = few.kneighbors(k=K).plan
    assert (said.engine, said.regions, said.visits) == ("exact", plan.regions, plan.visits)
    assert said.shuffled_bytes > 3_000 * 4 * vectors.shape[1]


def test_other_queries_are_not_explained(index: Index, vectors: Floats) -> None:
    rows = [(at, vector.tolist()) for at, vector in enumerate(vectors[:5])]
    frame = session().createDataFrame(rows, "id bigint, embedding array<float>")
    with pytest.raises(LookalikeError, match="rows of an index"):
        index.kneighbors(frame, k=K).explain()


def test_the_command(vectors: Floats, tmp_path: Path) -> None:
    few = collection_of(vectors[:3_000], tmp_path / "few.index", [3_000])
    asked = ["plan", str(few.path), "neighbors", "-k", "5"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    words = [line.split()[0] for line in shown.stdout.splitlines()]
    assert words == ["rows", "search", "regions", "visits", "shuffled", "memory", "CPU", "time"]
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert (told["job"], told["rows"], told["k"]) == ("neighbors", 3_000, 5)
    refused = CliRunner().invoke(app, ["plan", str(few.path), "nothing"])
    assert refused.exit_code == 2 and "neighbors" in refused.output
