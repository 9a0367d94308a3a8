"""Embed Arrow batches of images into Arrow batches of embeddings."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from lookalike import images, models
from lookalike.errors import ImageError
from lookalike.images.decoding.sandbox import Decode
from lookalike.images.inputs.read_ahead import read_ahead
from lookalike.images.inputs.reader import content_hash
from lookalike.models import Model
from lookalike.models.callables import embed_each
from lookalike.models.embedder import NO_DIRECTION, have_direction, normalize
from lookalike.storage.schema import ROW
from lookalike.system.arrays import Vectors

StoredEmbedding: TypeAlias = tuple[Vectors, tuple[int, int]]
"""A stored embedding, float32 (width,), and the width and height of its image in pixels."""

EmbeddingLookup: TypeAlias = Callable[[str], StoredEmbedding | None]
"""Maps the hash of a file's content to its stored embedding, None if there is none."""
_INPUT_COLUMNS = ("id", "path", "label", "reason", "size", "modified")


def embed_batches(
    batches: Iterable[pa.RecordBatch],
    source: images.Source,
    model: Model,
    threads: int = 1,
    device: str = "cpu",
    *,
    batch: int | None = None,
    ahead: int | None = None,
    lookup: EmbeddingLookup | None = None,
    isolated: bool = False,
    expendable: bool = False,
    scaled: bool = True,
    schema: pa.Schema = ROW,
) -> Iterator[pa.RecordBatch]:
    """Embed Arrow batches, in a Spark task (`mapInArrow`) or in this process.

    Each thread decodes and embeds, so that decoding overlaps with the network. The order of rows
    is kept. Memory holds the current input batch, one decoded image for each thread, and some
    dozens of images at the size of the network's input; and 64 MB of files that are read ahead, if
    they come from a store.

    Parameters
    ----------
    batches
        Batches with the columns of `images.listing.IMAGE`.
    source
        Where images are read from if a batch lacks their content.
    model
        The network.
    threads
        Threads that decode and embed.
    device
        "cpu" or "cuda".
    batch
        Rows that a thread takes at a time, by default the network's fastest batch size.
    ahead
        Batches computed before the caller takes them, by default two for each thread.
    lookup
        Returns stored embeddings: images with one are not decoded.
    isolated
        Decode in a separate process for each thread: a crash or a timeout of the decoder then
        costs one image.
    expendable
        This process may be killed: SIGALRM ends it if a decode hangs. Needs one thread.
    scaled
        Scale vectors to length 1.
    schema
        The columns of the index: `ROW`, and columns of the user, which batches may have.

    Yields
    ------
    Batches with the columns of `schema`. Images that cannot be read have the status `skipped`.

    """
    run = models.engine(model, threads, streams=threads, device=device)
    ahead = 2 * threads if ahead is None else ahead
    rows = batch or run.batch
    groups = (
        group.slice(start, rows)
        for group in read_ahead(source, batches)
        for start in range(0, group.num_rows, rows)
    )
    if threads == 1:
        with images.open_decoder(isolated, expendable, source.truncated) as decoder:
            decode = partial(decoder.decode_pixels, preprocessing=model.input)
            embed = partial(_embed_rows, source, model, run, decode, lookup, scaled)
            yield from (_with_columns(embed(rows), rows, schema) for rows in groups)
        return
    pending: deque[tuple[Future[pa.RecordBatch], pa.RecordBatch]] = deque()

    def taken() -> pa.RecordBatch:
        made, rows = pending.popleft()
        return _with_columns(made.result(), rows, schema)

    # Silence warnings here: threads that do it concurrently restore each other's state.
    # The decoder closes before the pool, so that no thread of the pool waits for it.
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(threads) as pool,
        images.open_decoder(isolated, truncated=source.truncated) as decoder,
    ):
        decode = partial(decoder.decode_pixels, preprocessing=model.input)
        warnings.simplefilter("ignore")
        embed = partial(_embed_rows, source, model, run, decode, lookup, scaled)
        try:
            for group in groups:
                pending.append((pool.submit(embed, group), group))
                if len(pending) > ahead:
                    yield taken()
            while pending:
                yield taken()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _with_columns(made: pa.RecordBatch, rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return embedded rows with the columns of a schema: those of the user are taken over."""
    arrays = list(made.columns)
    for field in schema:
        if field.name in rows.schema.names and field.name not in ROW.names:
            arrays.append(rows[field.name].cast(field.type))
        elif field.name not in ROW.names:
            arrays.append(pa.nulls(made.num_rows, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _embed_rows(
    source: images.Source,
    model: Model,
    run: models.Engine,
    decode: Decode,
    lookup: EmbeddingLookup | None,
    scaled: bool,
    rows: pa.RecordBatch,
) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {name: [None] * rows.num_rows for name in ROW.names}
    columns.update({name: rows[name].to_pylist() for name in _INPUT_COLUMNS})
    columns["status"] = ["skipped"] * rows.num_rows
    decoded = np.empty((rows.num_rows, *model.input.shape), np.uint8)
    to_embed: list[int] = []
    vectors: dict[int, Vectors] = {}
    for at in range(rows.num_rows):
        try:
            if columns["reason"][at]:
                continue
            content = rows["content"][at].as_py()
            data = images.read(source, columns["path"][at]) if content is None else content
            columns["content_hash"][at] = content_hash(data)
            if lookup is not None and (stored := lookup(columns["content_hash"][at])):
                vectors[at], size = stored
            else:
                decoded[len(to_embed)], size = decode(data)
                to_embed.append(at)
            columns["width"][at], columns["height"][at] = size
            columns["status"][at] = "ok"
        except ImageError as error:
            columns["reason"][at] = str(error)
    if to_embed:
        made, failed = embed_each(run, decoded[: len(to_embed)])
        made = normalize(made) if scaled else made
        usable = have_direction(made)
        for place, at in enumerate(to_embed):
            if usable[place]:
                vectors[at] = made[place]
            else:
                columns["status"][at] = "skipped"
                columns["reason"][at] = failed.get(place, NO_DIRECTION)
                columns["width"][at] = columns["height"][at] = None
    columns["embedding"] = _list_array(vectors, rows.num_rows)
    return pa.RecordBatch.from_pydict(columns, schema=ROW)


def _list_array(vectors: dict[int, Vectors], rows: int) -> pa.ListArray:
    """Pack the vectors (width,) of some rows into a list array of all rows, null for the others."""
    present = np.zeros(rows, bool)
    present[list(vectors)] = True
    ordered = [vectors[at] for at in np.flatnonzero(present).tolist()]
    width = len(ordered[0]) if ordered else 0
    offsets = np.concatenate([[0], np.cumsum(present * width)]).astype(np.int32)
    values = np.concatenate(ordered) if ordered else np.empty(0, np.float32)
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(~present))
