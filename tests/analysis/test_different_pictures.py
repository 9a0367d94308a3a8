"""No picture is dropped for another one that is like it, and a copy still is."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

import lookalike
from helpers import alike
from helpers.photos import UNSEEN, needs_photos
from lookalike import Index
from lookalike.analysis.closeness import agree_closely
from lookalike.analysis.comparison import ImageReader, compare_pairs
from lookalike.images import Source, decode_pixels
from lookalike.images.decoding import identity
from lookalike.images.decoding.sandbox import IsolatedDecoder, open_decoder
from lookalike.images.perturbations import CHANGES, variant
from lookalike.images.synthetic import DrawnCollection
from lookalike.system.defaults import MIN_AGREEMENT

EACH = 2  # pictures of a kind
Compare = Callable[..., list[tuple[float | None, str]]]


def suffix(data: bytes) -> str:
    """The ending of a file with this content."""
    return f".{(Image.open(io.BytesIO(data)).format or '').lower()}"


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.fixture
def compare(tmp_path: Path) -> Iterator[Compare]:
    """Compare all pairs of some files by their pixels: how well they agree, and what that means."""

    def pairs(
        *files: bytes, distance: float = 0.1, agrees: float = MIN_AGREEMENT
    ) -> list[tuple[float | None, str]]:
        names = []
        for number, data in enumerate(files):
            names.append(f"{number}{suffix(data)}")
            (tmp_path / names[-1]).write_bytes(data)
        one, other = np.triu_indices(len(files), 1)
        batch = pa.RecordBatch.from_pydict(
            {
                "a_path": [names[at] for at in one],
                "b_path": [names[at] for at in other],
                "distance": [distance] * len(one),
            }
        )
        eyes = ImageReader(decoder, Source("files", str(tmp_path)))
        found = compare_pairs(batch, eyes, eyes, agrees)
        return list(zip(found["agreement"].to_pylist(), found["compared"].to_pylist(), strict=True))

    with open_decoder(isolated=False) as decoder:
        yield pairs


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of some pictures of each kind."""
    folder = tmp_path_factory.mktemp("alike") / "photos"
    folder.mkdir()
    for kind, make in alike.KINDS.items():
        for number in range(EACH):
            data = make(number)
            (folder / f"{kind}-{number}{suffix(data)}").write_bytes(data)
    return lookalike.create_index(folder, out=folder.parent / "x.index", spark=False)


# Long on Spark: the same comparison, in tasks, takes six times as long.
@pytest.mark.parametrize(
    "spark",
    [
        pytest.param(False, id="threads"),
        pytest.param(True, id="spark", marks=pytest.mark.long),
    ],
)
def test_no_picture_is_dropped_for_one_that_is_like_it(
    spark: bool, kinds: Index, tmp_path: Path
) -> None:
    found = kinds.duplicates(tmp_path / "out", within=2, spark=spark, shown=0)
    assert found.to_pandas().path.tolist() == []
    assert found.figures["unreadable_pairs"] == 0
    pairs = pd.read_parquet(tmp_path / "out" / "pairs")
    of_a_kind = pairs.a_path.str.split("-").str[0] == pairs.b_path.str.split("-").str[0]
    assert len(pairs[of_a_kind]) == len(alike.KINDS) * EACH * (EACH - 1) // 2
    seen = set(pairs.compared)
    assert seen == {"other", "alike", "unclear"}
    for name in ("alike", "unclear"):
        assert found.figures[f"{name}_pairs"] == (pairs.compared == name).sum() > 0
        assert pairs.agreement[pairs.compared == name].isna().all()


def test_a_leak_is_no_picture_that_is_like_one(kinds: Index, tmp_path: Path) -> None:
    found = kinds.pairs(tmp_path / "out", k=2, verify=True, spark=False, shown=0)
    assert found.figures["agreeing"] == 0
    assert found.figures["alike_pairs"] > 0 and found.figures["unclear_pairs"] > 0


def test_no_agreement_that_is_asked_for_makes_them_one(compare: Compare) -> None:
    """However little is asked for, what differs when looked at closely is another picture."""
    for kind in ("form_of_one_word", "chess_board", "night_sky"):
        pictures = [alike.KINDS[kind](number) for number in range(3)]
        assert compare(*pictures, agrees=0.5) == [(None, "alike")] * 3


@pytest.mark.parametrize("kind", alike.KINDS)
def test_equal_pixels_are_the_same_whatever_is_to_be_seen(kind: str, compare: Compare) -> None:
    """Two files of the same pixels, of which nothing else is the same."""
    data = alike.KINDS[kind](1)
    picture = opened(data)
    if getattr(picture, "n_frames", 1) > 1:
        twin = data + b"\0"
    elif picture.format == "JPEG":
        twin = encoded(picture)  # decoded pixels, in another format
    else:
        twin = encoded(picture, compress_level=1)
    assert twin != data
    assert compare(data, twin, distance=0.0) == [(1.0, "equal")]


COPIED = ("form", "form_of_one_word", "page_of_text", "dialog", "map_tile", "chess_board",
          "floor_plan", "camera_trap", "square_code")  # fmt: skip


@pytest.mark.parametrize("kind", COPIED)
def test_a_copy_of_such_a_picture_is_the_same(kind: str, compare: Compare) -> None:
    picture = opened(alike.KINDS[kind](1)).convert("RGB")
    smaller = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4))
    for copy in (encoded(picture, "JPEG", quality=70), encoded(smaller)):
        ((agreement, seen),) = compare(encoded(picture), copy)
        assert seen == "same" and agreement is not None and agreement >= MIN_AGREEMENT


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_of_a_photo_is_the_same(
    change: str, compare: Compare, drawn: DrawnCollection
) -> None:
    photos = sorted(drawn.photos.rglob("*.jpg"))[:4]
    for number, photo in enumerate(photos):
        ((agreement, seen),) = compare(
            photo.read_bytes(), variant(Image.open(photo), change, number)
        )
        assert seen == "same" and agreement is not None and agreement >= MIN_AGREEMENT, photo


def test_equal_vectors_of_different_pictures_are_no_class(compare: Compare) -> None:
    """A network that saw two blank pictures cannot tell them apart."""
    for kind in ("flat_colour", "nearly_black", "white_icon", "page_number"):
        pictures = [alike.KINDS[kind](number) for number in range(4)]
        assert not {seen for _, seen in compare(*pictures, distance=0.0)} & {"same", "equal"}


def test_an_animation_is_not_its_first_frame(compare: Compare) -> None:
    film = [alike.photo(number).resize((160, 120)) for number in range(3)]
    for kind in ("GIF", "WEBP", "PNG"):
        animated = encoded(film[0], kind, save_all=True, append_images=film[1:], lossless=True)
        shorter = encoded(film[0], kind, save_all=True, append_images=film[1:2], lossless=True)
        still = encoded(film[0], kind, lossless=True)
        assert {seen for _, seen in compare(animated, shorter, still)} == {"alike"}


def test_depth_opacity_and_turning_count(compare: Compare) -> None:
    """Two pictures whose pixels are equal but for what a thumbnail does not have."""
    grey = np.full((64, 64), 300, np.uint16)
    deep = [encoded(Image.fromarray(grey + number)) for number in range(2)]
    blank = [Image.new("RGBA", (64, 64), (255, 255, 255, opacity)) for opacity in (255, 90)]
    sheet = Image.new("RGB", (64, 64), (250, 250, 250))
    sheet.putpixel((3, 5), (249, 250, 250))
    turned = Image.Exif()
    turned[0x0112] = 3
    for one, other in (
        deep,
        [encoded(picture) for picture in blank],
        [encoded(sheet), encoded(sheet, exif=turned)],
    ):
        assert identity.digest(one) != identity.digest(other)
        assert compare(one, other, distance=0.0) == [(None, "unclear")]


def test_a_picture_that_can_be_seen_through_is_not_one_on_paper(compare: Compare) -> None:
    shape = alike.photo(3).convert("RGBA")
    shape.putalpha(Image.linear_gradient("L").resize(shape.size))
    paper = Image.new("RGBA", shape.size, "white")
    paper.alpha_composite(shape)
    ((_, seen),) = compare(encoded(shape), encoded(paper.convert("RGB")))
    assert seen in ("alike", "other")
    smaller = shape.resize((360, 270))
    ((_, seen),) = compare(encoded(shape), encoded(smaller))
    assert seen == "same"


@pytest.mark.parametrize("kind", ["photo", *alike.KINDS])
def test_processes_apart_see_the_same(kind: str) -> None:
    data = encoded(alike.photo(2)) if kind == "photo" else alike.KINDS[kind](2)
    if kind not in ("photo", "white_icon", "last_frame", "form", "scan_12_bit"):
        pytest.skip("of one sort with others")
    with IsolatedDecoder() as apart:
        here, there = identity.view(data), apart.view(data)
        assert here.frames == there.frames
        np.testing.assert_array_equal(here.pixels, there.pixels)
        assert identity.digest(data) == apart.digest(data)


def textured(number: int) -> Image.Image:
    """Grey clouds at four scales: stone, skin, an X-ray."""
    rng = np.random.default_rng(number)
    levels = np.full((600, 800), 128.0)
    for side, amplitude in ((6, 60), (20, 35), (70, 20), (250, 10)):
        knots = Image.fromarray(rng.standard_normal((side, side * 4 // 3)).astype(np.float32))
        levels += amplitude * np.asarray(knots.resize((800, 600), Image.Resampling.BICUBIC))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")


LINES: dict[str, tuple[list[tuple[int, int]], int, int]] = {  # where, width, level
    "crack": ([(200, 150), (260, 190), (300, 260), (380, 300), (430, 380)], 3, 20),
    "scratch": ([(100, 200), (700, 230)], 2, 250),
    "hair": ([(160, 420), (300, 390), (420, 400), (560, 330), (600, 260)], 3, 10),
}


@pytest.mark.parametrize("line", LINES)
def test_a_photo_with_one_line_more_is_another(line: str, compare: Compare) -> None:
    where, width, level = LINES[line]
    for number in range(2):
        photo = textured(number)
        drawn = photo.copy()
        ImageDraw.Draw(drawn).line(where, fill=(level,) * 3, width=width)
        files = [encoded(picture, "JPEG", quality=90) for picture in (photo, drawn)]
        assert compare(*files) == [(None, "alike")]
        ((_, seen),) = compare(files[0], variant(photo, "watermark", number))
        assert seen == "same"


@pytest.mark.parametrize("zoom", [0.0, 1e-9, 1e-3, 40.0, 1e4])
def test_an_alignment_that_collapsed_is_no_agreement(zoom: float) -> None:
    """Nothing is enlarged to see more of what a map like that shows."""
    picture = np.asarray(textured(1))
    assert not agree_closely(picture, picture, np.diag([zoom, zoom, 1.0]))


def test_what_is_looked_at_is_bounded() -> None:
    wide = encoded(Image.effect_noise((5000, 1200), 60).convert("RGB"), "JPEG")
    pixels = identity.view(wide).pixels
    assert (
        0.8 * identity.MAX_VIEW_PIXELS
        < pixels.shape[0] * pixels.shape[1]
        <= identity.MAX_VIEW_PIXELS
    )
    assert pixels.shape[1] / pixels.shape[0] == pytest.approx(5000 / 1200, rel=0.01)


@needs_photos
@pytest.mark.parametrize("stops", [5, 6])
def test_photos_that_are_nearly_black_are_not_the_same(stops: int, compare: Compare) -> None:
    dark = []
    for photo in sorted((UNSEEN / "cars_train").glob("*.jpg"))[:12]:
        levels = np.asarray(Image.fromarray(decode_pixels(photo.read_bytes())[0]), np.float32)
        dark.append(encoded(Image.fromarray(np.uint8(np.round(levels / 2**stops)))))
    seen = [seen for _, seen in compare(*dark)]
    assert len(seen) == 66 and not {"same", "equal"} & set(seen)
