"""Compare the neighbours in an index of reduced precision (int8, bf16) with those in f32."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from lookalike import images, models
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.inputs.reader import content_hash
from lookalike.models import Model
from lookalike.models.embedder import normalize
from lookalike.search.evaluation import interval
from lookalike.search.rows import Rows, draw
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Numbers, Pixels, Vectors
from lookalike.system.resources import cores

SAMPLE_IMAGES = 200  # some three seconds in f32


def against_f32(table: EmbeddingTable, rows: Rows, k: int = 5, seed: int = 0) -> dict[str, Any]:
    """Measure which share of the k nearest neighbours in f32 the stored vectors keep.

    Drawn images are embedded again in f32; each is compared with the others of the sample, in f32
    and with the stored vectors.

    Parameters
    ----------
    table : EmbeddingTable
    rows : Rows
        Of the index.
    k : int
    seed : int

    Returns
    -------
    dict
        `overlap` is the mean share in common and `overlap_95` its 95 % interval; `images` is the
        number of compared images, `left_out` of drawn ones that are unreadable or changed. Without
        a comparison `overlap` is None and `reason` says why.
    """
    figures: dict[str, Any] = {"images": 0, "left_out": 0, "k": k}
    unknown = {"overlap": None, "overlap_95": None}
    try:
        model = table.model
        full = models.in_f32(model)
    except LookalikeError as error:
        return {**figures, **unknown, "reason": str(error)}
    if full is None:
        reason = f"{model.backbone} with the weights {model.weights} is not available in f32"
        return {**figures, **unknown, "reason": reason}

    places = draw(len(rows), SAMPLE_IMAGES, seed)
    pixels = _pixels(table.source, rows, places, model.input)
    read = np.array([one is not None for one in pixels])
    count = int(read.sum())
    figures.update(images=count, left_out=len(read) - count, k=max(min(k, count - 1), 0))
    if count < 2:
        reason = "fewer than two of the drawn images are readable and unchanged"
        return {**figures, **unknown, "reason": reason}
    wanted = _embed(full, np.array([one for one in pixels if one is not None]))
    shares = models.overlaps(rows.vectors(places[read]), wanted, figures["k"])
    overlap, bounds = float(shares.mean()), interval(shares)
    return {
        **figures,
        "overlap": round(overlap, 4),
        "overlap_95": [round(bound, 4) for bound in bounds],
    }


def _pixels(
    source: images.Source, rows: Rows, places: Numbers, preprocessing: images.Preprocessing
) -> list[Pixels | None]:
    """Decode the images of some rows: uint8 (height, width, 3), None for changed or unreadable."""

    def decode(row: dict[str, Any]) -> Pixels | None:
        with contextlib.suppress(ImageError):
            data = images.read(source, row["path"])
            if content_hash(data) == row["content_hash"]:
                return images.decode_pixels(data, preprocessing=preprocessing)[0]
        return None

    columns = ["path", "content_hash"]
    named = pa.concat_tables([segment.rows.select(columns) for segment in rows.segments])
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(decode, named.take(places).to_pylist()))


def _embed(model: Model, pixels: Pixels) -> Vectors:
    """Embed pixels, uint8 (n, height, width, 3): float32 (n, width of a vector)."""
    run = models.engine(model)
    starts = range(0, len(pixels), run.batch)
    return normalize(np.concatenate([run(pixels[at : at + run.batch]) for at in starts]))
