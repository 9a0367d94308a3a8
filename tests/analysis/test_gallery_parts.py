"""What the parts of a gallery hold, and what its captions say."""

import re
from pathlib import Path

import numpy as np
import pytest

import lookalike
from helpers.segments import collection_of
from lookalike import Index
from lookalike.analysis.reports import _file_size
from lookalike.images.synthetic import draw_collection
from lookalike.models.embedder import normalize
from lookalike.search.bands.names import BANDS
from lookalike.system.arrays import Vectors

KINDS, ROWS, WIDTH = 6, 60, 32


def kinds_around_a_hub() -> Vectors:
    """Return kinds, each a ball of three dimensions of its own; the last vector is between all."""
    rng = np.random.default_rng(3)
    axes = np.eye(WIDTH)
    parts = []
    for kind in range(KINDS):
        directions = rng.standard_normal((ROWS, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        inside = 0.3 * rng.random((ROWS, 1)) ** (1 / 3) * directions
        of_kind = axes[4 * kind + 1 : 4 * kind + 5]
        parts.append(axes[0] + 0.09 * of_kind[0] + inside @ of_kind[1:])
    parts.append(axes[:1])
    return normalize(np.concatenate(parts).astype(np.float32))


def test_a_hub_is_not_typical(tmp_path: Path) -> None:
    """It is among the nearest of more images than any other, which have nothing in common."""
    vectors = kinds_around_a_hub()
    apart = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1)[:, :15]
    times = np.bincount(near.ravel())
    assert times[-1] > times[:-1].max() + 20
    index = Index(collection_of(vectors, tmp_path / "x.index", [len(vectors)]))
    table = index.gallery(tmp_path / "out", shown=KINDS, spark=False).to_pandas()
    typical = table[table.section == "typical"]
    assert max(typical.id) < KINDS * ROWS
    assert typical.figure.is_monotonic_decreasing and typical.figure.min() > 0


def test_bursts_are_not_typical(tmp_path: Path) -> None:
    """Images of the same photo are near each other, and say nothing of the others."""
    vectors = kinds_around_a_hub()[:-1]
    burst = vectors[7] + 1e-5 * np.random.default_rng(0).standard_normal((40, WIDTH))
    vectors = normalize(np.concatenate([vectors, burst.astype(np.float32)]))
    index = Index(collection_of(vectors, tmp_path / "x.index", [len(vectors)]))
    assert index.bands.limits is not None and index.bands.limits[0] > 1e-4
    table = index.gallery(tmp_path / "out", shown=KINDS, spark=False).to_pandas()
    typical = table[table.section == "typical"].id
    assert not set(typical) & {7, *range(KINDS * ROWS, len(vectors))}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Drawn photos, two of them twice."""
    folder = tmp_path_factory.mktemp("copied")
    photos = sorted(draw_collection(folder / "drawn", images=40, held_out=0).photos.iterdir())
    for photo in photos[:2]:
        (photo.parent / f"copy_{photo.name}").write_bytes(photo.read_bytes())
    return lookalike.create_index(photos[0].parent, folder / "x.index", spark=False)


def test_captions_say_what_distances_mean(copied: Index, tmp_path: Path) -> None:
    copied.gallery(tmp_path / "gallery", shown=4, k=5, spark=False)
    page = (tmp_path / "gallery" / "index.html").read_text()
    captions = re.findall(rf"({'|'.join(BANDS)}) (\d\.\d{{3}})<", page)
    assert len(captions) == 4 * 5 + 4  # the neighbours of four images, and four pairs
    assert all(copied.bands.name(float(far)) == band for band, far in captions)
    assert ("same photo", "0.000") in captions


def test_duplicates_have_their_resolution_and_size(copied: Index, tmp_path: Path) -> None:
    found = copied.duplicates(tmp_path / "out", within=0.01, spark=False).to_pandas()
    page = (tmp_path / "out" / "index.html").read_text()
    assert len(found) >= 4
    for width, height, size in found[["width", "height", "size"]].to_numpy().tolist():
        assert f"<small>{_file_size(width, height, size)}</small>" in page
    assert "same photo 0.000" in page


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((4000, 3000, 2_345_678), "4,000 x 3,000, 2.3 MB"),
        ((64, 48, 12_345), "64 x 48, 12 KB"),
        ((10_000, 1, 10_000_000), "10,000 x 1, 10 MB"),
        ((1, 1, 70), "1 x 1, 0.1 KB"),
    ],
)
def test_size_of_a_file(size: tuple[int, int, int], text: str) -> None:
    assert _file_size(*size) == text
