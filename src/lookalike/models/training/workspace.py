"""The work folder of a training run, and checks that its result can be written."""

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike.errors import LookalikeError, writing_to

DECODED = "decoded"
"""The folder of decoded photos in a work folder."""

_UNFINISHED = f".{'[0-9a-f]' * 32}-*.pt"  # names that `new_file` gives to unfinished checkpoints


def work_folder(out: Path, work: Path | None) -> Path:
    """Return the folder of decoded photos and checkpoints, by default beside `out`."""
    return out.with_name(f".{out.name}.work") if work is None else work


@contextmanager
def lock_folder(place: Path) -> Iterator[None]:
    """Create a work folder and lock it; raise `LookalikeError` if another run uses it.

    Unfinished files of killed runs are deleted.
    """
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LookalikeError(
                f"another run is at work in {place}: wait for it, or choose another `work` folder"
            ) from None
        for left in place.glob(_UNFINISHED):
            left.unlink()
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # a failed run leaves no empty folder
                if not any(one.name != ".lock" for one in place.iterdir()):
                    (place / ".lock").unlink()
                    place.rmdir()
            raise


def check_out(out: Path) -> None:
    """Raise `LookalikeError` if `out` cannot be written, before the training."""
    if out.is_dir():
        raise LookalikeError(f"{out} is a folder: choose another `out`")
    with writing_to(out.parent, "choose another `out`"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
