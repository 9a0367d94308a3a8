"""What a user's script sees: few names, typed options and results, examples that run.

mypy checks this file as it would check such a script. An option that it does not refuse leaves
its `type: ignore` unused, which is an error too.
"""

import doctest
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import lookalike
from lookalike import ImageError, Index, LookalikeError, Neighbor, SearchResult, create
from lookalike import index as index_module
from lookalike.analysis import representatives, run
from lookalike.analysis.cleanup import unchanged_files
from lookalike.images.synthetic import DrawnCollection
from lookalike.lsh import parameters
from lookalike.models import embedder
from lookalike.search import evaluation, results
from lookalike.search.bands import copies, kept, limits, pixels
from lookalike.search.knn import export

DOCUMENTED = [
    *(embedder, create, index_module, results, run, unchanged_files, export),
    *(evaluation, representatives, parameters, limits, copies, pixels, kept),
]


@pytest.fixture(scope="module")
def photos(drawn: DrawnCollection) -> list[Path]:
    return sorted(drawn.photos.iterdir())


def test_the_public_names() -> None:
    assert sorted(lookalike.__all__) == [
        "CallableModel",
        "ImageEmbedder",
        "ImageError",
        "Index",
        "LookalikeError",
        "Neighbor",
        "SearchResult",
        "create_index",
        "nearest",
        "open_index",
        "show_progress",
    ]
    assert all(getattr(lookalike, name).__doc__ for name in lookalike.__all__)
    assert issubclass(ImageError, LookalikeError)
    assert [name for name in dir(Index) if not name.startswith("_")] == [
        *("add", "bands", "build_regions", "check", "clusters", "duplicates", "embedder"),
        "evaluate",
        *(
            "gallery",
            "info",
            "kneighbors",
            "outliers",
            "pairs",
            "path",
            "refresh",
            "register_function",
            "relocate",
        ),
        *("remove", "repair", "report", "sample", "search", "set_aside", "sync", "to_arrow"),
        *("to_pandas", "to_polars", "to_spark", "upgrade", "vacuum", "versions"),
    ]


def test_an_index_is_made_opened_and_searched(photos: list[Path], tmp_path: Path) -> None:
    index = lookalike.create_index(list(map(str, photos[:6])), tmp_path / "x.index", spark=False)
    assert lookalike.open_index(str(index.path)).info()["images"] == 6
    result: SearchResult = index.search(photos[0], k=2, engine="exact", label=None)
    nearest: Neighbor = result[0]
    assert (nearest.rank, result.engine) == (1, "exact")
    results: list[SearchResult] = index.search(photos[:2], k=2)
    assert [len(one) for one in results] == [2, 2]
    assert index.versions()[0]["what"] == "index"
    assert index.info()["recall"]["exact"] == 1.0
    assert index.evaluate(k=2, queries=2, spark=False)["approximate"]["k"] == 2
    assert index.pairs(tmp_path / "pairs", k=1, spark=False, shown=0).figures["pairs"] > 0


def test_misspelt_options_are_refused(index: Index, photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="enigne"):
        index.search(photos[0], enigne="exact")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="modle"):
        lookalike.create_index(photos, tmp_path / "x", modle="x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="lables"):
        index.add(photos, lables="x.csv")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="whithin"):
        index.duplicates(tmp_path / "x", whithin=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="rcall"):
        index.kneighbors(rcall=1)  # type: ignore[call-arg]
    assert not list(tmp_path.iterdir())


def test_unknown_engines_are_refused(index: Index, photos: list[Path]) -> None:
    with pytest.raises(LookalikeError, match="unknown engine 'lsh': choose auto, exact, appr"):
        index.search(photos[0], engine="lsh")  # type: ignore[call-overload]
    with pytest.raises(LookalikeError, match="unknown engine 'spark-lsh': choose auto, exact or"):
        index.kneighbors(engine="spark-lsh")  # type: ignore[arg-type]


@pytest.mark.parametrize("module", DOCUMENTED, ids=lambda module: module.__name__)
def test_examples_run(module: ModuleType, index: Index, photos: list[Path], tmp_path: Path) -> None:
    given = {"index": index, "photos": photos, "folder": tmp_path, "lookalike": lookalike}
    result = doctest.testmod(module, extraglobs=given)
    assert result.failed == 0 and result.attempted > 0


def test_everything_public_is_documented() -> None:
    """Functions with parameters have a section for them; `self` and the index are no parameters."""
    for name, method in inspect.getmembers(Index, inspect.isfunction):
        if not name.startswith("_"):
            assert method.__doc__, name
    for function in (lookalike.create_index, lookalike.open_index, Index.search, Index.pairs):
        assert function.__doc__ is not None
        for name in inspect.signature(function).parameters:
            assert name in ("self", "index") or name in function.__doc__, name
