"""Damaged pictures by the hundred: each is embedded or has its reason, and nothing else happens."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import damage
from helpers.hostile import decoding_processes, gone
from lookalike.images import decode_pixels
from lookalike.storage import EmbeddingTable

COMMAND = str(Path(sys.executable).with_name("lookalike"))
PAGE = os.sysconf("SC_PAGE_SIZE")


def test_the_pictures_are_whole_before() -> None:
    for name, data in damage.pictures().items():
        pixels, size = decode_pixels(data)
        assert pixels.std() > 10, name
        sizes = (
            damage.SIZE,
            damage.SIZE[::-1],
            damage.PHOTO,
            (63, 42),
            (32, 32),
            (32, 21),
            (16, 16),
        )
        assert size in sizes, name


def test_what_pillow_does_not_write() -> None:
    picture = np.asarray(damage.picture(1))
    for data in (damage.interlaced_png(picture), damage.tiled_tiff(picture)):
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(np.asarray(image), picture)


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "again", "other")]
    for folder, seed in zip(folders, (5, 5, 6), strict=True):
        damage.write_fuzzed(folder, 60, seed)
    one, again, other = ([f.read_bytes() for f in sorted(x.iterdir())] for x in folders)
    assert one == again
    assert sum(a != b for a, b in zip(one, other, strict=True)) > 40


def assert_all_are_accounted_for(out: Path, count: int) -> dict[str, int]:
    """Check that each input is embedded or skipped, with a line as reason; count the reasons."""
    stored = EmbeddingTable.open(out)
    embedded, skipped = stored.counts()
    reasons = [reason for _, reason in stored.skipped()]
    assert embedded + skipped == count and len(reasons) == skipped
    assert embedded > count / 10 and skipped > count / 10
    assert all(reason and reason.isprintable() for reason in reasons)
    for segment in stored.segments:
        np.testing.assert_allclose(np.linalg.norm(segment.vectors, axis=1), 1, atol=1e-3)
    kinds = [re.sub(r"\d[\d,]*", "N", reason.partition(":")[0]) for reason in reasons]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def test_some_hundred_damaged_pictures(tmp_path: Path) -> None:
    damage.write_fuzzed(tmp_path / "photos", 300)
    out = tmp_path / "x.index"
    command = [COMMAND, "index", str(tmp_path / "photos"), "--out", str(out), "--no-spark"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 10, done.stderr  # no decoder has a say
    assert_all_are_accounted_for(out, 300)


@pytest.mark.long
def test_ten_thousand_damaged_pictures(
    tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    count = 10_000
    damage.write_fuzzed(tmp_path / "photos", count, seed=1)
    out = tmp_path / "x.index"
    command = [COMMAND, "index", str(tmp_path / "photos"), "--out", str(out), "--no-spark"]
    started = time.monotonic()
    # The line that says how far it is needs a terminal.
    ours, theirs = pty.openpty()
    with subprocess.Popen([*command, "--precision", "f32"], stderr=theirs) as process:
        os.close(theirs)
        said, reader = _read_all(ours)
        samples: list[tuple[int, int]] = []
        processes: set[int] = set()
        while process.poll() is None:
            alive = decoding_processes(process.pid)
            processes.update(alive)
            parts = b"".join(said[-50:]).decode(errors="replace").rpartition("embedding images")
            if percent := re.findall(r"(\d+)%", parts[2]):
                samples.append((int(percent[-1]), resident(process.pid, *alive)))
            time.sleep(0.2)
    reader.join(5)
    seconds = time.monotonic() - started
    assert process.returncode == 0, b"".join(said)[-2000:]
    reasons = assert_all_are_accounted_for(out, count)
    assert gone(list(processes))
    # Damaged pictures leave batches of every size, for each of which the engine keeps memory once.
    halfway = np.median([held for percent, held in samples if 50 <= percent <= 60])
    late = np.median([held for percent, held in samples if percent >= 90])
    figures = {"seconds": seconds, "processes": len(processes), "halfway": halfway, "late": late}
    for name, figure in {**figures, "reasons": reasons}.items():
        record_testsuite_property(name, figure)  # to be read with --junit-xml
    assert late <= 1.1 * halfway


def resident(*pids: int) -> int:
    """Return the bytes of memory that processes hold together; one that has ended holds none."""
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
        except OSError:
            continue
    return total


def _read_all(terminal: int) -> tuple[list[bytes], threading.Thread]:
    """Read what is said to a terminal, as it is said, until nobody is left to say anything."""
    said: list[bytes] = []

    def read() -> None:
        try:
            while part := os.read(terminal, 65536):
                said.append(part)
        except OSError:  # Linux: the other end has closed
            pass
        os.close(terminal)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return said, reader
