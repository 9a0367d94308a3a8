"""Where a run keeps what it makes meanwhile, alone; whether what it makes can be written."""

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike.errors import LookalikeError, writing_to

DECODED = "decoded"
"""What the folder of decoded photos is called in the work folder."""

_PARTS = f".{'[0-9a-f]' * 32}-*.pt"  # what `new_file` calls checkpoints until they are whole


def work_folder(out: Path, work: Path | None) -> Path:
    """Return where decoded photos and what is learned are kept meanwhile."""
    return out.with_name(f".{out.name}.work") if work is None else work


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Keep other runs out of a work folder, which is made; `LookalikeError` where one is in it.

    Half-written files that killed runs have left there go.
    """
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LookalikeError(
                f"another run is at work in {place}: wait for it, or choose another `work` folder"
            ) from None
        for left in place.glob(_PARTS):
            left.unlink()
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # of what came to nothing nothing is left
                if not any(one.name != ".lock" for one in place.iterdir()):
                    (place / ".lock").unlink()
                    place.rmdir()
            raise


def check_out(out: Path) -> None:
    """Raise `LookalikeError` where `out` cannot be written: now, not when all is learned."""
    if out.is_dir():
        raise LookalikeError(f"{out} is a folder: choose another `out`")
    with writing_to(out.parent, "choose another `out`"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
