"""`ImageEmbedder` and `embed_batches`: any kind of image, the same vector; bad ones, a reason."""

import hashlib
import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from PIL import Image

from lookalike import ImageEmbedder
from lookalike.errors import ImageError
from lookalike.images import SIDE, Source, decode, resize, transform
from lookalike.images.inputs.listing import IMAGE
from lookalike.images.inputs.reader import content_hash
from lookalike.ingest.batches import embed_batches
from lookalike.models.embedder import normalize, to_pixels
from lookalike.models.runtimes import OpenVinoEngine
from lookalike.storage.schema import ROW

Bytes = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def embed() -> ImageEmbedder:
    return ImageEmbedder(threads=1)


def noise(seed: int, height: int = 40, width: int = 60) -> Bytes:
    """Blobs of color: noise that survives being made smaller."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def png(picture: Bytes) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


PICTURE = noise(0)


@pytest.fixture(scope="module")
def wanted(embed: ImageEmbedder) -> npt.NDArray[np.float32]:
    return embed(png(PICTURE))


KINDS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "text": str,
    "bytes": lambda path: path.read_bytes(),
    "PIL, not loaded": Image.open,
    "PIL": lambda path: Image.open(path).convert("RGB"),
    "PIL with alpha": lambda path: Image.open(path).convert("RGBA"),
    "array": lambda path: PICTURE,
    "array read backwards": lambda path: np.ascontiguousarray(PICTURE[::-1])[::-1],
    "array with alpha": lambda path: np.asarray(Image.open(path).convert("RGBA")),
    "floats": lambda path: PICTURE / 255,
    "floats of 32 bits": lambda path: (PICTURE / 255).astype(np.float32),
    "floats of 16 bits": lambda path: (PICTURE / 255).astype(np.float16),
    "tensor": lambda path: torch.from_numpy(PICTURE.copy()).permute(2, 0, 1),
    "transformed": lambda path: transform()(Image.open(path).convert("RGB")),
    "transformed, learning": lambda path: transform()(Image.open(path)).requires_grad_(),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_gives_the_same(
    kind: str, embed: ImageEmbedder, wanted: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    (tmp_path / "x.png").write_bytes(png(PICTURE))
    image = KINDS[kind](tmp_path / "x.png")
    assert np.array_equal(to_pixels(image), resize(decode(png(PICTURE))))
    vector = embed(image)
    assert (vector.shape, vector.dtype.name) == ((512,), "float32")
    assert np.array_equal(vector, wanted)
    assert np.array_equal(embed([image]), wanted[None])


@pytest.mark.parametrize(
    "image",
    [
        PICTURE[..., 0],
        PICTURE[..., :1],
        PICTURE[..., 0] / 255,
        torch.from_numpy(PICTURE[..., 0].copy())[None],
        Image.fromarray(PICTURE[..., 0]),
    ],
    ids=["two axes", "three axes", "floats", "tensor", "PIL"],
)
def test_greys(image: Any) -> None:
    grey = np.repeat(PICTURE[..., :1], 3, axis=2)
    assert np.array_equal(to_pixels(image), to_pixels(grey))


def test_what_is_clear_is_white() -> None:
    alpha = np.zeros(PICTURE.shape[:2], np.uint8)
    alpha[:, 30:] = 255
    seen = np.where(alpha[..., None] == 255, PICTURE, np.uint8(255))
    for image in (np.dstack([PICTURE, alpha]), Image.fromarray(np.dstack([PICTURE, alpha]))):
        assert np.array_equal(to_pixels(image), to_pixels(seen))


def test_every_brightness_survives() -> None:
    ramp = np.arange(SIDE * SIDE * 3, dtype=np.uint32).astype(np.uint8).reshape(SIDE, SIDE, 3)
    assert np.array_equal(to_pixels(transform()(Image.fromarray(ramp))), ramp)
    for kind in (np.float16, np.float32, np.float64):
        assert np.array_equal(to_pixels((ramp / 255).astype(kind)), ramp)
    assert to_pixels(np.full((9, 9), 0.999)).min() == 255


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "nothing": (None, TypeError, "not an image: NoneType"),
    "a number": (5, TypeError, "not an image: int"),
    "a mapping": ({"path": "x.jpg"}, TypeError, "not an image: dict"),
    "a generator": (iter("ab"), TypeError, "not an image: "),
    "no file": ("/nowhere/x.jpg", ImageError, "no such file"),
    "a folder": (Path("/"), ImageError, "not a regular file"),
    "no bytes": (b"", ImageError, "empty file"),
    "text": (b"text", ImageError, "not an image"),
    "a row": (np.zeros(9, np.uint8), ImageError, "an array of shape"),
    "a batch": (np.zeros((1, 9, 9, 3), np.uint8), ImageError, "an array of shape"),
    "two channels": (np.zeros((9, 9, 2), np.uint8), ImageError, "an array of shape"),
    "channels first": (np.zeros((3, 9, 9), np.uint8), ImageError, "an array of shape"),
    "large numbers": (np.zeros((9, 9, 3), np.int64), ImageError, "an array of int64"),
    "truths": (np.zeros((9, 9), np.bool_), ImageError, "an array of bool"),
    "words": (np.array([["a"]]), ImageError, "an array of <U1"),
    "floats to 255": (np.full((9, 9), 255.0), ImageError, "floats outside 0..1"),
    "negative floats": (np.full((9, 9), -0.1), ImageError, "floats outside 0..1"),
    "floats that are no numbers": (np.full((9, 9), np.nan), ImageError, "outside 0..1"),
    "an array of no rows": (np.zeros((0, 9, 3), np.uint8), ImageError, "."),
    "floats of no rows": (np.zeros((0, 9, 3)), ImageError, "."),
    "a tensor of no rows": (torch.zeros(3, 0, 9, dtype=torch.uint8), ImageError, "."),
    "PIL of no rows": (Image.new("RGB", (9, 0)), ImageError, "."),
    "PIL, cut": (
        lambda: Image.open(io.BytesIO(png(noise(1, 300, 300))[:3000])),
        ImageError,
        "damaged",
    ),
    "a flat tensor": (torch.zeros(9, 9, dtype=torch.uint8), ImageError, "a tensor of shape"),
    "a batch of tensors": (torch.zeros(1, 3, SIDE, SIDE), ImageError, "a tensor of shape"),
    "a small float tensor": (torch.zeros(3, 9, 9), ImageError, r"transform\(\) gives"),
    "a tensor of large numbers": (torch.zeros(3, SIDE, SIDE, dtype=torch.int64), ImageError, "."),
    "a tensor of no numbers": (torch.full((3, SIDE, SIDE), torch.nan), ImageError, "."),
}


@pytest.mark.parametrize(("image", "error", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_image(
    image: Any, error: type[Exception], message: str, embed: ImageEmbedder
) -> None:
    make = image if callable(image) else lambda: image
    for given in (make(), [PICTURE, make()]):
        with pytest.raises(error, match=message) as caught:
            embed(given)
        assert type(caught.value) is error
        assert str(caught.value).isprintable()


# --- many at a time -----------------------------------------------------------------------------


def test_lists(embed: ImageEmbedder) -> None:
    none = embed([])
    assert (none.shape, none.dtype.name) == ((0, 512), "float32")
    two = embed((PICTURE, png(noise(1))))
    assert (two.shape, two.dtype.name) == ((2, 512), "float32")
    assert np.abs(two[0] - two[1]).max() > 1e-3
    assert (embed.width, repr(embed)) == (
        512,
        "ImageEmbedder('efficientnet-lite0', 'general', width=512)",
    )


def test_more_than_a_batch(embed: ImageEmbedder) -> None:
    pictures: list[Any] = [noise(seed) for seed in range(OpenVinoEngine.batch + 1)]
    together = embed(pictures)
    apart = np.stack([embed(picture) for picture in pictures])
    assert together.shape == (OpenVinoEngine.batch + 1, 512)
    assert np.abs(together - apart).max() < 1e-5
    gaps = np.linalg.norm(apart[:, None] - apart[None], axis=2)
    assert gaps[~np.eye(len(gaps), dtype=bool)].min() > 1e-2  # or any order would do


def test_lengths(embed: ImageEmbedder) -> None:
    raw = ImageEmbedder(normalize=False, model=embed.model)(PICTURE)
    assert abs(np.linalg.norm(embed(PICTURE)) - 1) < 1e-6
    assert abs(np.linalg.norm(raw) - 1) > 0.1
    assert np.allclose(raw / np.linalg.norm(raw), embed(PICTURE), atol=1e-6)


def test_normalize() -> None:
    rows = np.array([[3, 4], [0, 0], [-1e-3, 0], [0, 1e15]], np.float32)
    scaled = normalize(rows)
    wanted = np.array([[0.6, 0.8], [np.nan, np.nan], [-1, 0], [0, 1]])  # zeros lead nowhere
    assert np.allclose(scaled, wanted, equal_nan=True)
    assert scaled.dtype.name == "float32"
    assert rows[0, 0] == 3


# --- batches of Arrow ---------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Source:
    """40 photos, three of which are none, and one that lies on its side."""
    for number in range(40):
        Image.fromarray(noise(number)).save(tmp_path / f"{number:02}.png")
    (tmp_path / "05.png").write_bytes(b"text")
    (tmp_path / "33.png").write_bytes(b"")
    (tmp_path / "39.png").unlink()
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(noise(7)).save(tmp_path / "07.png", exif=exif)
    return Source("files", str(tmp_path))


REASONS = {5: "not an image", 33: "empty file", 39: "no such file"}


def batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=IMAGE)


def listing(numbers: range) -> pa.RecordBatch:
    return batch(
        [
            {"id": 100 + n, "path": f"{n:02}.png", "label": f"make {n}" if n % 2 else None}
            for n in numbers
        ]
    )


def embedded(
    batches: list[pa.RecordBatch], source: Source, embed: ImageEmbedder, threads: int = 1
) -> list[dict[str, Any]]:
    made = list(embed_batches(iter(batches), source, embed.model, threads))
    assert all(one.schema == ROW and one.num_rows <= OpenVinoEngine.batch for one in made)
    for one in made:
        one.validate(full=True)
    return [row for one in made for row in one.to_pylist()]


@pytest.mark.parametrize("ends", [[40], [3, 3, 36, 40]], ids=str)
def test_batches(ends: list[int], photos: Source, embed: ImageEmbedder) -> None:
    starts = [0, *ends[:-1]]
    rows = embedded(
        [listing(range(a, b)) for a, b in zip(starts, ends, strict=True)], photos, embed
    )
    good: list[Any] = [Path(photos.root, f"{n:02}.png") for n in range(40) if n not in REASONS]
    vectors = iter(embed(good))
    assert [row["id"] for row in rows] == list(range(100, 140))
    assert [row["path"] for row in rows] == [f"{n:02}.png" for n in range(40)]
    assert [row["label"] for row in rows] == [f"make {n}" if n % 2 else None for n in range(40)]
    for number, row in enumerate(rows):
        file = Path(photos.root, row["path"])
        if file.exists():
            assert row["content_hash"] == content_hash(file.read_bytes())
        else:
            assert row["content_hash"] is None
        if number in REASONS:
            assert row["status"] == "skipped"
            assert row["reason"].startswith(REASONS[number])
            assert (row["embedding"], row["width"], row["height"]) == (None, None, None)
        else:
            assert (row["status"], row["reason"]) == ("ok", None)
            assert (row["width"], row["height"]) == ((40, 60) if number == 7 else (60, 40))
            assert np.abs(np.array(row["embedding"]) - next(vectors)).max() < 1e-5


def test_contents_given(photos: Source, embed: ImageEmbedder) -> None:
    rows = embedded(
        [
            batch(
                [
                    {"id": 1, "path": "nowhere", "content": png(PICTURE)},
                    {"id": 2, "path": "00.png", "content": b"not what the file holds"},
                    {"id": 3, "path": "00.png", "content": b""},
                    {"id": 4, "path": "00.png", "reason": "empty cell"},
                    {"id": 5, "path": "00.png", "reason": "empty cell", "content": png(PICTURE)},
                    {"id": 6, "path": "00.png"},
                ]
            )
        ],
        photos,
        embed,
    )
    assert [row["status"] for row in rows] == ["ok", *["skipped"] * 4, "ok"]
    reasons = [row["reason"] for row in rows]
    assert reasons[2:] == ["empty file", "empty cell", "empty cell", None]
    assert reasons[0] is None and str(reasons[1]).startswith("not an image")
    assert np.abs(np.array(rows[0]["embedding"]) - embed(PICTURE)).max() < 1e-5
    assert rows[3]["content_hash"] is None


def test_nothing_good_and_nothing_at_all(photos: Source, embed: ImageEmbedder) -> None:
    only_bad = [{"id": n, "path": "05.png"} for n in range(OpenVinoEngine.batch + 3)]
    rows = embedded([batch(only_bad), batch([]), batch([{"id": 99}] * 0)], photos, embed)
    assert [row["id"] for row in rows] == list(range(OpenVinoEngine.batch + 3))
    assert {row["status"] for row in rows} == {"skipped"}
    assert [row["embedding"] for row in rows] == [None] * len(rows)
    assert embedded([], photos, embed) == []


def test_batches_are_asked_for_one_by_one(photos: Source, embed: ImageEmbedder) -> None:
    asked = []

    def give() -> Iterator[pa.RecordBatch]:
        for start in range(0, 40, 10):
            asked.append(start)
            yield listing(range(start, start + 10))

    rows = embed_batches(give(), photos, embed.model)
    next(rows)
    assert asked == [0]


THREADS = 4


@pytest.mark.long
def test_threads_change_nothing(photos: Source, embed: ImageEmbedder) -> None:
    numbers = [n for _ in range(5) for n in range(40)]
    batches = [
        batch([{"id": at + n, "path": f"{numbers[at + n]:02}.png"} for n in range(size)])
        for at, size in ((0, 100), (100, 1), (101, 0), (101, 99))
    ]
    alone = embedded(batches, photos, embed)
    assert [row["id"] for row in alone] == list(range(200))
    assert {row["status"] for row in alone} == {"ok", "skipped"}
    together = embedded(batches, photos, embed, THREADS)
    vectors = [[row.pop("embedding") for row in rows] for rows in (alone, together)]
    assert together == alone
    for one, other in zip(*vectors, strict=True):
        if one is None:
            assert other is None
        else:
            assert np.abs(np.array(one) - other).max() < 1e-6
    assert embedded([], photos, embed, THREADS) == []


@pytest.fixture
def as_found() -> Iterator[None]:
    """Leave the process as it was: its filters of warnings, and no thread beside its own."""
    filters, threads = list(warnings.filters), set(threading.enumerate())
    yield
    assert list(warnings.filters) == filters
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("threads", [1, THREADS])
def test_a_source_that_breaks_is_not_waited_for(
    threads: int, photos: Source, embed: ImageEmbedder, deadline: None, as_found: None
) -> None:
    def give() -> Iterator[pa.RecordBatch]:
        yield listing(range(20))
        yield listing(range(20, 40))
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(embed_batches(give(), photos, embed.model, threads))


@pytest.mark.parametrize("threads", [1, THREADS])
def test_a_batch_that_breaks_is_not_waited_for(
    threads: int, photos: Source, embed: ImageEmbedder, deadline: None, as_found: None
) -> None:
    rows = [
        listing(range(40)),
        listing(range(40)).drop_columns(["label"]),
        *[listing(range(40))] * 9,
    ]
    with pytest.raises(KeyError, match="label"):
        list(embed_batches(iter(rows), photos, embed.model, threads))


def test_threads_are_asked_for_no_more_than_they_need(
    photos: Source, embed: ImageEmbedder, deadline: None, as_found: None
) -> None:
    asked = []

    def give() -> Iterator[pa.RecordBatch]:
        for number in range(200):
            asked.append(number)
            yield listing(range(number % 5, number % 5 + 2))

    rows = embed_batches(give(), photos, embed.model, THREADS)
    assert next(rows)["id"].to_pylist() == [100, 101]
    assert len(asked) <= 2 * THREADS + 2
    assert next(rows)["id"].to_pylist() == [101, 102]
    assert len(asked) <= 2 * THREADS + 3
    rows.close()  # type: ignore[attr-defined]
    assert len(asked) <= 2 * THREADS + 3


def test_what_is_sloppy_brings_no_warning_on_any_thread(
    photos: Source, embed: ImageEmbedder, as_found: None
) -> None:
    entry = struct.pack("<HHHII", 1, 0x112, 2, 64, 255)  # a word, far behind the end
    exif = b"Exif\x00\x00II*\x00" + struct.pack("<I", 8) + entry
    sloppy = io.BytesIO()
    Image.fromarray(PICTURE).save(sloppy, "JPEG", exif=exif)
    rows = [batch([{"id": n, "content": sloppy.getvalue()} for n in range(40)])] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        told = embedded(rows, photos, embed, THREADS)
        assert list(warnings.filters) == filters
        with pytest.raises(UserWarning):
            Image.open(io.BytesIO(sloppy.getvalue())).getexif()
    assert {row["status"] for row in told} == {"ok"}


def test_content_hash() -> None:
    assert content_hash(b"abc") == hashlib.blake2b(b"abc", digest_size=16).hexdigest()
    assert len({content_hash(bytes([n])) for n in range(256)}) == 256
