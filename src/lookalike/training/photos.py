"""The photos to learn from, decoded once: their pixels in one file, and their labels."""

import io
import json
import shutil
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from lookalike import images
from lookalike.cache import new_folder
from lookalike.errors import LookalikeError
from lookalike.images import BadImage, IsolatedDecoder, Source
from lookalike.images.labels import open_labels
from lookalike.images.listing import label_images, list_images, listed
from lookalike.progress import progress_line
from lookalike.spark import cores

if TYPE_CHECKING:
    import torch

SIDE = 288
"""Pixels a side of what is kept of a photo: more than the 224 a network sees, for parts of it."""
UNLABELLED = -1

_THUMBNAIL = 448  # of its longer side, before it is squashed
_PIXELS, _ABOUT = "pixels", "photos.json"


@dataclass(frozen=True)
class Photos:
    """n photos kept in a folder: `labels`, int64 (n,), count `classes`; `UNLABELLED` for none.

    `skipped` counts the reasons why others are not among them.
    """

    folder: Path
    labels: npt.NDArray[np.int64]
    classes: Sequence[str]
    skipped: dict[str, int]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def load(cls, folder: Path) -> "Photos":
        """Read what `gather` wrote; `OSError` where it did not."""
        about = json.loads((folder / _ABOUT).read_text())
        labels = np.array(about["labels"], np.int64)
        return cls(folder, labels, about["classes"], about["skipped"])

    def pixels(self) -> npt.NDArray[np.uint8]:
        """Return uint8 (n, 288, 288, 3), squashed to a square; mapped, not read."""
        return np.memmap(self.folder / _PIXELS, np.uint8, "r", shape=(len(self), SIDE, SIDE, 3))


def gather(
    sources: Sequence[tuple[str | Path, Path | None]],
    folder: Path,
    *,
    image_name: str = "image",
    label_name: str = "Class",
) -> Photos:
    """Decode photos and keep them in `folder`, which comes whole or not at all.

    `sources` are folders, files or globs, each with its label file or None. Photos without a label
    are kept too. What does not decode is left out and counted by reason. A quarter of a megabyte of
    disk a photo is taken. Raises `LookalikeError` where nothing is left or the disk is too small.
    """
    with new_folder(folder) as staging:
        names: list[str | None] = []
        skipped: Counter[str] = Counter()
        for number, (place, labels) in enumerate(sources):
            source = images.locate(place)
            if source.kind != "files":
                raise LookalikeError(f"to train takes files: copy the photos of {place} to a disk")
            listing = staging / f"listing-{number}.parquet"
            count = list_images(source, listing)
            _check_room(staging, count)
            if labels is not None:
                label_images(listing, open_labels(labels, image_name, label_name))
            with (staging / _PIXELS).open("ab") as file:
                for label, pixels in _decoded(source, listing, count):
                    if isinstance(pixels, str):
                        skipped[pixels] += 1
                    else:
                        file.write(pixels.tobytes())
                        names.append(label)
            listing.unlink()
        if not names:
            reason = skipped.most_common(1)[0][0]
            raise LookalikeError(f"none of these can be read ({reason}): give other images")
        classes = sorted({name for name in names if name is not None})
        numbers = {name: number for number, name in enumerate(classes)}
        known = [UNLABELLED if name is None else numbers[name] for name in names]
        about = {"labels": known, "classes": classes, "skipped": dict(skipped)}
        (staging / _ABOUT).write_text(json.dumps(about))
    return Photos.load(folder)


def _check_room(folder: Path, count: int) -> None:
    needed, free = count * SIDE * SIDE * 3, shutil.disk_usage(folder).free
    if needed > 0.9 * free:
        raise LookalikeError(
            f"{count:,} photos need {needed / 1e9:.1f} GB while they are learned from, and "
            f"{folder.parent} has {free / 1e9:.1f}: make room, or name another folder with --work"
        )


def _decoded(
    source: Source, listing: Path, count: int
) -> Iterator[tuple[str | None, npt.NDArray[np.uint8] | str]]:
    """Give the label of each input and its pixels, (288, 288, 3), or why there are none."""
    with IsolatedDecoder() as decoder, ThreadPoolExecutor(cores()) as pool:

        def pixels(path: str, reason: str | None) -> npt.NDArray[np.uint8] | str:
            if reason is not None:
                return reason
            try:
                small = decoder.thumbnail(images.read(source, path), _THUMBNAIL)
            except BadImage as error:
                return str(error)
            with Image.open(io.BytesIO(small)) as image:
                squashed = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            return np.asarray(squashed)

        with progress_line("decoding", "images") as move:
            waiting: deque[tuple[str | None, Future[npt.NDArray[np.uint8] | str]]] = deque()
            done = 0
            for batch in listed(listing):
                for row in batch.select(["path", "label", "reason"]).to_pylist():
                    task = pool.submit(pixels, row["path"], row["reason"])
                    waiting.append((row["label"], task))
                    if len(waiting) > 4 * cores():
                        label, future = waiting.popleft()
                        yield label, future.result()
                        move(done := done + 1, count)
            for label, future in waiting:
                yield label, future.result()


class Pixels:
    """The pixels of photos, by number, on the device that trains.

    They lie there as a whole where that takes less than 40 % of a GPU's memory, else they come
    from the mapped file. `which` are the photos to take part, all without it.
    """

    def __init__(self, photos: Photos, device: "torch.device") -> None:
        import torch

        self.device = device
        self._mapped = photos.pixels()
        self._there: torch.Tensor | None = None
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self._mapped.nbytes < 0.4 * free:
                self._there = torch.from_numpy(np.array(self._mapped)).to(device)

    def __len__(self) -> int:
        return len(self._mapped)

    def __getitem__(self, photos: "torch.Tensor") -> "torch.Tensor":
        """Return uint8 (n, 288, 288, 3) for photo numbers, int64 (n,)."""
        import torch

        if self._there is not None:
            return self._there[photos.to(self.device)]
        return torch.from_numpy(self._mapped[photos.cpu().numpy()]).to(self.device)
