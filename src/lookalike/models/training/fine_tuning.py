"""Fine-tune a network on labelled photos, and measure the gain."""

import hashlib
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lookalike.errors import LookalikeError, one_line
from lookalike.images import PREPROCESSING
from lookalike.images import SIDE as SEEN
from lookalike.models import find_device
from lookalike.models.model import fingerprint
from lookalike.models.networks import FromPixels, backbone, dump, save
from lookalike.models.training.augmentation import Variety, Views, draw
from lookalike.models.training.dataset import Images, Photos, Pixels, decode_photos
from lookalike.models.training.losses import LossWeights, Objective
from lookalike.models.training.trainer import Plan, train
from lookalike.models.training.validation import (
    HeldOut,
    hold_out,
    measure,
    measure_once,
    sample_measured,
)
from lookalike.models.training.workspace import DECODED, check_out, lock_folder, work_folder
from lookalike.models.weights import AUTO, settle
from lookalike.system.files import delete_folder
from lookalike.system.paths import Name, local_path
from lookalike.system.progress import progress_line
from lookalike.system.resources import memory

logger = logging.getLogger(__name__)

_LOSS = LossWeights(imitation=0, relations=0)  # labels only
_VARIETY = Variety()
_DEFAULT_EPOCHS = 12
_MIN_STEPS = 100  # few photos get more epochs
_MAX_VIEWS = 4_000_000  # drawn, 80 bytes each; longer runs repeat them
_MIN_NOTIFIED_SECONDS = 120.0  # longer runs get an estimate of the time left


@dataclass(frozen=True)
class Trained:
    """The result of `fine_tune`.

    Attributes
    ----------
    out
        The file of weights.
    model, weights, device
        The network, its initial weights, and where it was trained.
    photos, classes, views
        Counts of what it was trained on.
    seconds
        Duration.
    skipped
        Counts of unreadable photos, by reason.
    unlabelled
        Photos without a label.
    unused_labels, loose_labels, missing_labels, not_looked_at
        As in the report of `lookalike.create_index`.
    held_out
        Retrieval on photos held out; None if nothing was measured.
    """

    out: Path
    model: str
    weights: str
    device: str
    photos: int
    classes: int
    views: int
    seconds: float
    skipped: dict[str, int]
    unlabelled: int
    unused_labels: int
    loose_labels: int
    missing_labels: int
    not_looked_at: dict[str, int]
    held_out: HeldOut | None

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {**asdict(self), "out": str(self.out)}


def fine_tune(
    images: Images,
    labels: Name,
    out: Name,
    *,
    image_name: str = "image",
    label_name: str = "Class",
    model: str = AUTO,
    weights: str = AUTO,
    epochs: int | None = None,
    batch: int | None = None,
    held_out: float = 0.2,
    device: str = "auto",
    seed: int = 0,
    work: Name | None = None,
    overwrite: bool = False,
) -> Trained:
    """Fine-tune a network on labelled photos, and write its weights.

    Decoded photos and checkpoints stay in a work folder until the weights are written: the same
    call continues a stopped run. Each epoch sees other crops and colours of the photos.

    Parameters
    ----------
    images
        Folders, files or globs of local photos.
    labels
        A CSV file.
    out
        The file to write: safetensors in half precision, for `backbone(model, out)`.
    image_name, label_name
        The columns of the CSV file.
    model, weights
        The network and its initial weights.
    epochs
        Views of each photo, on average.
    batch
        Views of a step.
    held_out
        Share to measure with: of the classes if ten or more have several photos, else of the
        photos of each class. 0 measures nothing.
    device
        "auto", "cpu" or "cuda".
    seed
        Random seed.
    work
        The work folder, by default beside `out`.
    overwrite
        Replace an existing file.

    Raises
    ------
    LookalikeError
        If the photos are not local, too few labels match, memory or disk is too small, or an
        option is invalid.
    """
    started = time.monotonic()
    out = local_path(out).absolute()
    _check(out, epochs, batch, held_out, seed, overwrite)
    target = torch.device(find_device(device))
    model, weights = settle(model, weights)
    network = _network(model, weights)
    place = work_folder(out, None if work is None else local_path(work).absolute())
    with lock_folder(place):
        photos = decode_photos(
            [(images, local_path(labels))],
            place / DECODED,
            image_name=image_name,
            label_name=label_name,
            besides=lambda labels: _checkpoint_bytes(
                network, math.ceil(labels * (1 - held_out)), target
            ),
        )
        kept, whole = hold_out(photos.labels, held_out, seed)
        if held_out and not len(kept):
            logger.warning(
                "no photo is held out, there are too few: two labels need four photos or more each"
            )
        taught = np.setdiff1d(np.arange(len(photos)), kept)
        kept = sample_measured(photos.labels, kept, seed)
        plan = _plan(len(taught), epochs, batch, seed)
        checkpoint = place / f"{_run_fingerprint(photos, taught, network, model, plan)}.pt"
        measured_before = checkpoint.with_suffix(".json")
        with _within_memory(plan.batch):
            pixels = Pixels(photos, target)
            before = measure_once(
                measured_before, lambda: measure(network, photos, kept, pixels, plan.batch)
            )
            network = _learn(network, photos, taught, pixels, plan, checkpoint)
            network.network.half().float()  # as written, so that the figures belong to the file
            after = measure(network, photos, kept, pixels, plan.batch)
        shown = len(np.unique(photos.labels[taught]))
        measured = None
        if before and after:
            count = len(np.unique(photos.labels[kept]))
            measured = HeldOut(len(kept), count, whole, before, after)
        about = {
            "arch": model,
            "dim": str(network.width()),
            "preprocessing": PREPROCESSING,
            "began_with": Path(weights).name,
            "learned_from": f"{len(taught)} photos of {shown} classes",
        }
        save(network, out, about)
        checkpoint.unlink(missing_ok=True)
        measured_before.unlink(missing_ok=True)
    if work is None:
        delete_folder(place)
    return Trained(
        out=out,
        model=model,
        weights=weights,
        device=str(target),
        photos=len(taught),
        classes=shown,
        views=plan.steps * plan.batch,
        seconds=round(time.monotonic() - started, 1),
        skipped=photos.skipped,
        unlabelled=photos.unlabelled,
        unused_labels=photos.unused_labels,
        loose_labels=photos.loose_labels,
        missing_labels=photos.missing_labels,
        not_looked_at=photos.not_looked_at,
        held_out=measured,
    )


def _check(
    out: Path, epochs: int | None, batch: int | None, held_out: float, seed: int, overwrite: bool
) -> None:
    if out.suffix != ".safetensors":
        raise LookalikeError(f"`out` is {str(out)!r}: choose a name that ends in .safetensors")
    if out.exists() and not out.is_dir() and not overwrite:
        raise LookalikeError(f"{out} already exists: choose another `out`, or set `overwrite=True`")
    for name, number in (("epochs", epochs), ("batch", batch)):
        if number is not None and number < 1:
            raise LookalikeError(f"`{name}` is {number}: give 1 or more, or leave it out")
    if not 0 <= held_out < 1:
        raise LookalikeError(
            f"`held_out` is {held_out:g}: give the share to measure with, such as 0.2, or 0"
        )
    if not 0 <= seed < 2**32:
        raise LookalikeError(f"`seed` is {seed}: give a number from 0 to {2**32 - 1}")
    check_out(out)


def _network(model: str, weights: str) -> FromPixels:
    network = FromPixels(backbone(model, weights), model)
    if getattr(network.network, "transform_input", False):  # of two old networks
        raise LookalikeError(
            f"{model} scales its images in a way of its own, which a file of weights does not "
            "record: choose another `model`"
        )
    try:
        network.width()
    except RuntimeError as error:
        detail = one_line(error)[:200]
        raise LookalikeError(
            f"{model} takes no images of {SEEN} pixels ({detail}): choose another `model`"
        ) from None
    return network


def _plan(photos: int, epochs: int | None, batch: int | None, seed: int) -> Plan:
    """Choose hyperparameters for a number of photos; smaller batches get smaller rates."""
    size = batch or min(max(2 ** round(math.log2(photos / 16)), 8), 128)
    views = epochs * photos if epochs else max(_DEFAULT_EPOCHS * photos, _MIN_STEPS * size)
    scale = min(math.sqrt(size / 128), 1)
    return Plan(
        [(SEEN, max(views, size))],
        batch=size,
        rate=3e-4 * scale,
        new_rate=3e-3 * scale,
        decay=1e-4,
        average=0.1,
        still=True,
        variety=Variety(colour=0.15),
        seed=seed,
    )


def _draw_views(taught: npt.NDArray[np.int64], plan: Plan) -> Views:
    """Draw the views of the whole run, as far as they fit into memory."""
    epochs = math.ceil(plan.steps * plan.batch / len(taught))
    rounds = max(1, min(epochs, _MAX_VIEWS // len(taught)))
    generator = torch.Generator().manual_seed(plan.seed)
    return draw(torch.from_numpy(np.tile(taught, rounds)), _VARIETY, generator)


def _learn(
    network: FromPixels,
    photos: Photos,
    taught: npt.NDArray[np.int64],
    pixels: Pixels,
    plan: Plan,
    checkpoint: Path,
) -> FromPixels:
    views = _draw_views(taught, plan)
    own = torch.from_numpy(np.unique(photos.labels[taught], return_inverse=True)[1])
    shown = own.repeat(len(views) // len(taught)).to(pixels.device)
    objective = Objective(network.width(), shown, [], _LOSS, plan.seed)
    began: tuple[int, float] | None = None  # the step, and the time, of the first report
    told = False

    with progress_line("learning", "steps") as move:

        def report(done: int, steps: int, terms: dict[str, float]) -> None:
            nonlocal began, told
            loss = sum(terms.values())
            move(done, steps, f"loss {loss:.3f}")
            if not math.isfinite(loss):
                checkpoint.unlink(missing_ok=True)
                raise LookalikeError(
                    f"training diverged after {done} steps: start with other `weights`, or try a "
                    "larger `batch`"
                )
            now = time.monotonic()
            if began is None:
                began = done, now
            elif not told and pixels.device.type == "cpu":
                left = (now - began[1]) / (done - began[0]) * (steps - done)
                told = True
                if left > _MIN_NOTIFIED_SECONDS:
                    logger.info(
                        f"about {left / 60:.0f} minutes left on this processor: set fewer "
                        "`epochs`, or stop and run the same command to continue later"
                    )

        return train(network, objective, views, pixels, plan, checkpoint, report)


def _run_fingerprint(
    photos: Photos, taught: npt.NDArray[np.int64], network: FromPixels, model: str, plan: Plan
) -> str:
    """Return a hash of all inputs, so that no other run continues from the checkpoint."""
    taken, began = (
        hashlib.blake2b(data, digest_size=16).hexdigest()
        for data in (taught.tobytes(), dump(network.network))
    )
    chosen = repr((plan, _LOSS, _VARIETY, _MAX_VIEWS))
    return fingerprint([photos.identity, taken, model, began, chosen])


def _checkpoint_bytes(network: FromPixels, labels: int, device: torch.device) -> int:
    """Return the disk space of two checkpoints; raise `LookalikeError` if memory is too small.

    Memory holds a direction in f32 for each label, its gradient and two moments of AdamW. A
    checkpoint contains these without the gradient, and the network, its average and its moments.
    """
    directions = 4 * labels * network.width()
    needed, available = 4 * directions, _memory(device)
    if needed > 0.9 * available:
        raise LookalikeError(
            f"to learn {labels:,} labels takes {needed / 1e9:.1f} GB of memory, and {device} has "
            f"{available / 1e9:.1f}: give fewer labels"
        )
    own = sum(int(one.nbytes) for one in network.state_dict().values())
    return 2 * (3 * directions + 4 * own)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return memory()


@contextmanager
def _within_memory(batch: int) -> Iterator[None]:
    """Raise `LookalikeError` with advice if a batch does not fit into memory."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise LookalikeError(
            f"the memory is too small for {batch} views at a time: set a smaller `batch`"
        ) from None
