"""The training photos, decoded once to one file of pixels, and their labels."""

import hashlib
import io
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lookalike import images
from lookalike.errors import ImageError, LookalikeError, one_line, says_nothing
from lookalike.images import IgnoredFiles, IsolatedDecoder, Source
from lookalike.images.inputs.label_matching import LabelCounts
from lookalike.images.inputs.labels import open_labels
from lookalike.images.inputs.listing import label_images, list_images, read_listing, write_listing
from lookalike.system.files import delete_folder, staging_folder
from lookalike.system.progress import progress_line
from lookalike.system.resources import cores
from lookalike.system.sql import connect, create_view, fetch_row

if TYPE_CHECKING:
    import torch


SIDE = 288
"""Pixels a side of a stored photo, more than a network's 224, to cut parts out of it."""
UNLABELLED = -1

_THUMBNAIL_SIDE = 448  # pixels of the longer side, before the photo is squashed
_PIXELS, _ABOUT = "pixels", "photos.json"
_BLOCK_PHOTOS = 1024


@dataclass(frozen=True)
class Photos:
    """n decoded photos in a folder.

    Attributes
    ----------
    folder
        Contains the pixels.
    labels
        int64 (n,): indexes of `classes`, or `UNLABELLED`.
    classes
        The labels.
    skipped
        Counts of photos that are unreadable, by reason.
    identity
        A hash: equal for equal photos with equal labels.
    unlabelled
        Photos left out because they have no label.
    unused_labels, loose_labels, missing_labels, not_looked_at
        As in `ingest.Report`.
    """

    folder: Path
    labels: npt.NDArray[np.int64]
    classes: Sequence[str]
    skipped: dict[str, int]
    identity: str
    unlabelled: int = 0
    unused_labels: int = 0
    loose_labels: int = 0
    missing_labels: int = 0
    not_looked_at: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def load(cls, folder: Path) -> "Photos":
        """Read the photos of `decode_photos`; raise `OSError`, `ValueError` or `KeyError`."""
        about = json.loads((folder / _ABOUT).read_text())
        labels = np.array(about.pop("labels"), np.int64)
        return cls(folder, labels, about["classes"], about["skipped"], about["identity"])

    def pixels(self) -> npt.NDArray[np.uint8]:
        """Return a memory map of the squashed photos, uint8 (n, 288, 288, 3)."""
        return np.memmap(self.folder / _PIXELS, np.uint8, "r", shape=(len(self), SIDE, SIDE, 3))


Images = str | Path | Sequence[str | Path]


def decode_photos(
    sources: Sequence[tuple[Images, Path | None]],
    folder: Path,
    *,
    image_name: str = "image",
    label_name: str = "Class",
    besides: Callable[[int], int] = lambda labels: 0,
) -> Photos:
    """Decode photos to a folder, which appears completely or not at all.

    A folder with the same photos and labels is reused; one with other photos is replaced. A photo
    takes a quarter of a megabyte.

    Parameters
    ----------
    sources
        Folders, files or globs, each with a label file, of whose photos only labelled ones are
        used, or with None: all are used, without labels. Unreadable photos are counted by reason.
    folder
        The folder to write.
    image_name, label_name
        The columns of the label files.
    besides
        Returns the further disk space, in bytes, that a number of labels needs.

    Raises
    ------
    LookalikeError
        If nothing is left, the labels distinguish nothing, `folder` contains anything else, or the
        disk is too small.
    """
    if folder.exists() and not (folder.is_dir() and {*os.listdir(folder)} <= {_PIXELS, _ABOUT}):
        raise LookalikeError(f"{folder} holds something else: choose another `work` folder")
    labelled = any(labels is not None for _, labels in sources)
    with staging_folder(folder) as staging:
        listings = [
            _list(number, source, staging, image_name, label_name)
            for number, source in enumerate(sources)
        ]
        more = 0
        if labelled:
            offered = _count_labels(listings)
            check_labels(offered)
            more = besides(len(offered))
        identity = _identity(listings)
        ignored = sum((Counter(one.ignored.counts()) for one in listings), Counter[str]())
        counts: dict[str, Any] = {
            "unlabelled": sum(one.unlabelled for one in listings),
            "unused_labels": sum(one.labels.unused for one in listings),
            "loose_labels": sum(one.labels.loose for one in listings),
            "missing_labels": sum(one.labels.missing for one in listings),
            "not_looked_at": dict(ignored.most_common()),
        }
        try:
            there = Photos.load(folder)
            if there.identity == identity and len(there.pixels()):
                return replace(there, **counts)
        except (OSError, ValueError, KeyError) as error:  # none there yet, or damaged
            if says_nothing(error):
                raise LookalikeError(
                    f"{folder} cannot be read now ({one_line(error)}): see to that, or choose "
                    "another `work` folder"
                ) from None
        delete_folder(folder)  # now: else the disk has to hold both
        _check_room(folder.parent, sum(one.count for one in listings), more)
        fresh = staging / "photos"
        fresh.mkdir()
        names, skipped = _decode(listings, fresh / _PIXELS)
        if labelled:
            check_labels(Counter(name for name in names if name is not None))
        classes = sorted({name for name in names if name is not None})
        numbers = {name: number for number, name in enumerate(classes)}
        about = {
            "labels": [UNLABELLED if name is None else numbers[name] for name in names],
            "classes": classes,
            "skipped": dict(skipped),
            "identity": identity,
        }
        (fresh / _ABOUT).write_text(json.dumps(about))
        fresh.rename(folder)
    return replace(Photos.load(folder), **counts)


def check_labels(photos: Mapping[str, int]) -> None:
    """Raise `LookalikeError` unless there are two labels, and two photos of one of them."""
    if len(photos) < 2:
        known = "".join(f", {name!r}," for name in photos)
        raise LookalikeError(
            f"the {sum(photos.values()):,} labelled photos have one label{known} so that there is "
            "nothing to tell apart: label photos of two kinds or more"
        )
    if max(photos.values()) < 2:
        raise LookalikeError(
            f"each of the {len(photos):,} labels has one photo, which shows nothing of what photos "
            "of a kind have in common: give several photos the same label, or name another column "
            "with `label_name`"
        )


@dataclass(frozen=True)
class _Listing:
    """A file that lists the `count` inputs of a source."""

    source: Source
    file: Path
    count: int
    ignored: IgnoredFiles
    unlabelled: int = 0
    labels: LabelCounts = field(default_factory=LabelCounts)


def _list(
    number: int,
    source: tuple[Images, Path | None],
    staging: Path,
    image_name: str,
    label_name: str,
) -> _Listing:
    place, labels = source
    ignored = IgnoredFiles(labels)
    located = images.locate(place, ignored=ignored)
    if located.kind != "files":
        raise LookalikeError(
            f"lookalike train takes files: copy the photos of {located.root} to a disk"
        )
    offered = None if labels is None else open_labels(labels, image_name, label_name)
    file = staging / f"listing-{number}.parquet"
    count = list_images(located, file, ignored=ignored)
    if offered is None:
        return _Listing(located, file, count, ignored)
    labelled = label_images(file, offered, images.encode_path(located.root))
    known = staging / f"labelled-{number}.parquet"
    with connect(staging) as sql:
        create_view(sql, "listing", file)
        (kept,) = fetch_row(sql, "select count(label) from listing")
        write_listing(sql, "from listing where label is not null order by id", known)
    return _Listing(located, known, kept, ignored, count - kept, labelled)


def _count_labels(listings: Sequence[_Listing]) -> Counter[str]:
    batches = (batch for one in listings for batch in read_listing(one.file))
    names = (name for batch in batches for name in batch["label"].to_pylist())
    return Counter(name for name in names if name is not None)


def _identity(listings: Sequence[_Listing]) -> str:
    """Return a hash of paths, sizes, times of change and labels."""
    digest = hashlib.blake2b(f"{SIDE} {_THUMBNAIL_SIDE}".encode(), digest_size=16)
    for one in listings:
        for batch in read_listing(one.file):
            digest.update(json.dumps(batch.drop_columns(["id", "content"]).to_pydict()).encode())
    return digest.hexdigest()


def _decode(listings: Sequence[_Listing], file: Path) -> tuple[list[str | None], Counter[str]]:
    """Write the pixels of readable photos; return their labels, and counts of reasons."""
    names: list[str | None] = []
    skipped: Counter[str] = Counter()
    with file.open("wb") as pixels:
        for one in listings:
            for label, decoded in _decoded(one.source, one.file, one.count):
                if isinstance(decoded, str):
                    skipped[decoded.partition(":")[0]] += 1  # without the sizes of each
                else:
                    pixels.write(decoded.tobytes())
                    names.append(label)
    if not names:
        reason = skipped.most_common(1)[0][0]
        raise LookalikeError(f"none of these can be read ({reason}): give other images")
    return names, skipped


def _check_room(folder: Path, count: int, more: int) -> None:
    needed, free = count * SIDE * SIDE * 3 + more, shutil.disk_usage(folder).free
    if needed > 0.9 * free:
        raise LookalikeError(
            f"{count:,} photos need {needed / 1e9:.1f} GB while they are learned from, and "
            f"{folder} has {free / 1e9:.1f}: make room, or choose another `work` folder"
        )


def _decoded(
    source: Source, listing: Path, count: int
) -> Iterator[tuple[str | None, npt.NDArray[np.uint8] | str]]:
    """Yield the label of each input, and its pixels (288, 288, 3) or the reason why not."""
    # The decoder ends before the pool, which ends the waiting of its threads.
    with ThreadPoolExecutor(cores()) as pool, IsolatedDecoder() as decoder:

        def pixels(path: str, reason: str | None) -> npt.NDArray[np.uint8] | str:
            if reason is not None:
                return reason
            try:
                small = decoder.thumbnail(images.read(source, path), _THUMBNAIL_SIDE)
            except ImageError as error:
                return str(error)
            with Image.open(io.BytesIO(small)) as image:
                squashed = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            return np.asarray(squashed)

        try:
            with progress_line("decoding", "images") as move:
                waiting: deque[tuple[str | None, Future[npt.NDArray[np.uint8] | str]]] = deque()
                done = 0
                for batch in read_listing(listing):
                    for row in batch.select(["path", "label", "reason"]).to_pylist():
                        task = pool.submit(pixels, row["path"], row["reason"])
                        waiting.append((row["label"], task))
                        if len(waiting) > 4 * cores():
                            label, future = waiting.popleft()
                            yield label, future.result()
                            move(done := done + 1, count)
                for label, future in waiting:
                    yield label, future.result()
                    move(done := done + 1, count)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Pixels:
    """The pixels of photos, by number, on the training device.

    They stay in a GPU's memory if they take less than 40 % of it, else they come from the mapped
    file.
    """

    def __init__(self, photos: Photos, device: "torch.device") -> None:
        import torch

        self.device = device
        self._mapped = photos.pixels()
        self._copy: torch.Tensor | None = None
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self._mapped.nbytes < 0.4 * free:
                self._copy = _copy_to_device(self._mapped, device)

    def __getitem__(self, photos: "torch.Tensor") -> "torch.Tensor":
        """Return uint8 (n, 288, 288, 3) for photo numbers, int64 (n,)."""
        import torch

        if self._copy is not None:
            return self._copy[photos.to(self.device)]
        return torch.from_numpy(self._mapped[photos.cpu().numpy()]).to(self.device)


def _copy_to_device(pixels: npt.NDArray[np.uint8], device: "torch.device") -> "torch.Tensor":
    """Copy mapped pixels to a device, block by block, to bound memory."""
    import torch

    there = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), _BLOCK_PHOTOS):
        block = np.array(pixels[start : start + _BLOCK_PHOTOS])
        there[start : start + _BLOCK_PHOTOS] = torch.from_numpy(block)
    return there
