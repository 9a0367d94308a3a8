"""Decoding in processes apart: the same pixels, and an image that crashes or hangs is just one."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import lookalike
from helpers.bad_inputs import write_bad_inputs, write_odd_but_good
from helpers.hostile import (
    CRASH,
    CRASHES_WHEN_LARGE,
    HANG,
    LEAVE,
    decoding_processes,
    gone,
    let_decoders_be_hostile,
)
from lookalike import ImageEmbedder, LookalikeError
from lookalike.errors import ImageError
from lookalike.images import IsolatedDecoder, Source, decode_pixels
from lookalike.images.decoding import raster
from lookalike.images.decoding import sandbox as isolated
from lookalike.images.inputs.listing import IMAGE
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest.batches import embed_batches
from lookalike.spark import retries_tasks
from lookalike.storage import EmbeddingTable

COMMAND = str(Path(sys.executable).with_name("lookalike"))
CRASHED = "the decoder crashed (SIGSEGV)"
THREADS = 3


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


GOOD = encoded(Image.linear_gradient("L").convert("RGB"), "JPEG")


@pytest.fixture
def decoder() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder() as decoder:
        yield decoder
    assert decoding_processes(os.getpid()) == []


@pytest.fixture
def hostile(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks at the end of images count in processes that are started from now on."""
    let_decoders_be_hostile(tmp_path_factory.mktemp("custom"), monkeypatch)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image has one second, here and in processes that are started from now on."""
    monkeypatch.setattr(isolated, "MAX_SECONDS", 1.0)
    monkeypatch.setenv("TEST_SECONDS", "1")


@pytest.fixture
def ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `short`, for large images, which take half a second, and eight times that when busy."""
    monkeypatch.setattr(isolated, "MAX_SECONDS", 10.0)
    monkeypatch.setenv("TEST_SECONDS", "10")


def reason_of(decoder: IsolatedDecoder, data: bytes) -> str:
    with pytest.raises(ImageError) as error:
        decoder.decode_pixels(data)
    return str(error.value)


def assert_is_good(decoder: IsolatedDecoder, data: bytes = GOOD) -> None:
    pixels, size = decoder.decode_pixels(data)
    wanted, wanted_size = decode_pixels(data)
    np.testing.assert_array_equal(pixels, wanted)
    assert (pixels.dtype, size) == (wanted.dtype, wanted_size)


def only_process() -> int:
    (pid,) = decoding_processes(os.getpid())
    return pid


# --- the same -----------------------------------------------------------------------------------


def test_the_same_pixels_and_the_same_reasons(decoder: IsolatedDecoder, tmp_path: Path) -> None:
    write_bad_inputs(tmp_path)
    write_odd_but_good(tmp_path)
    (tmp_path / "unreadable.jpg").unlink()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    good = 0
    for path in files:
        data = path.read_bytes()
        try:
            decode_pixels(data)
        except ImageError as error:
            assert reason_of(decoder, data) == str(error)
        else:
            assert_is_good(decoder, data)
            good += 1
    assert good == 15 and len(files) - good == 7
    assert len(decoding_processes(os.getpid())) == 1


def test_what_is_written_between_images_changes_nothing(decoder: IsolatedDecoder) -> None:
    """Libraries that print have nowhere to print to."""
    assert_is_good(decoder)
    streams = Path(f"/proc/{only_process()}/fd")
    assert {os.readlink(streams / fd) for fd in "12"} == {os.devnull}


# --- crashes ------------------------------------------------------------------------------------


def test_a_crash_costs_that_image_alone(hostile: None, decoder: IsolatedDecoder) -> None:
    assert_is_good(decoder)
    for mark, reason in [(CRASH, CRASHED), (LEAVE, "the decoder crashed (exit code 3)")]:
        for _ in range(3):
            assert reason_of(decoder, GOOD + mark) == reason
    assert_is_good(decoder)
    assert reason_of(decoder, GOOD + CRASH) == CRASHED
    assert len(decoding_processes(os.getpid())) == 0


@pytest.mark.parametrize("size", [100, 5_000_000])
def test_a_process_that_was_killed_while_it_waited_costs_nothing(
    size: int, decoder: IsolatedDecoder
) -> None:
    assert_is_good(decoder)
    os.kill(first := only_process(), signal.SIGKILL)
    assert_is_good(decoder, GOOD + bytes(size))
    assert only_process() != first


def test_more_memory_than_there_may_be(
    hostile: None, decoder: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_MEMORY", str(300 * 2**20))
    large = encoded(Image.new("RGBA", (6000, 5000)))
    assert reason_of(decoder, large) == "too large for the memory at hand"
    assert_is_good(decoder)
    assert len(decode_pixels(large)[0]) == 224


# --- time ---------------------------------------------------------------------------------------


def test_a_hang_ends(hostile: None, short: None, decoder: IsolatedDecoder, deadline: None) -> None:
    assert_is_good(decoder)
    for _ in range(2):
        assert reason_of(decoder, GOOD + HANG) == "decoding took over 1 s"
    assert_is_good(decoder)


@pytest.mark.parametrize("size", [100, 5_000_000], ids=["reading", "writing"])
def test_a_process_that_does_not_answer(
    size: int, short: None, decoder: IsolatedDecoder, deadline: None
) -> None:
    assert_is_good(decoder)
    os.kill(only_process(), signal.SIGSTOP)
    assert reason_of(decoder, GOOD + bytes(size)) == "decoding took over 1 s"
    assert_is_good(decoder)


def test_who_was_stopped_itself_blames_no_image(
    hostile: None, short: None, decoder: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-Z stops all; the time of an image is over when they go on."""
    assert_is_good(decoder)
    os.kill(only_process(), signal.SIGSTOP)
    overdue = iter([100.0])
    monkeypatch.setattr(
        "lookalike.images.decoding._sandbox_client.DecoderProcess.overdue_seconds",
        lambda _: next(overdue),
    )
    assert_is_good(decoder)


# --- large pictures -----------------------------------------------------------------------------


def test_large_ones_wait_for_each_other(
    ten_seconds: None, decoder: IsolatedDecoder, deadline: None
) -> None:
    """The wait is none of their time."""
    large = encoded(Image.new("1", (8000, 4002)))
    with ThreadPoolExecutor(1) as pool:
        with raster.large_image_lock:
            waiting = pool.submit(decoder.decode_pixels, large)
            time.sleep(10.5)
            assert not waiting.done()
            assert_is_good(decoder)  # small ones do not
        assert waiting.result()[1] == (8000, 4002)


def test_the_next_has_its_turn_when_a_large_one_crashes(
    hostile: None, decoder: IsolatedDecoder, deadline: None
) -> None:
    bad = encoded(Image.new("1", CRASHES_WHEN_LARGE))
    good = encoded(Image.new("1", (8000, 4002)))
    assert reason_of(decoder, bad) == CRASHED
    assert decoder.decode_pixels(good)[1] == (8000, 4002)
    with raster.large_image_lock:
        pass


# --- threads, start and end ---------------------------------------------------------------------


def test_each_thread_has_a_process(hostile: None) -> None:
    data = [GOOD + CRASH if at % 10 == 7 else GOOD for at in range(30)]

    def works(decode: Callable[[bytes], object], one: bytes) -> bool:
        try:
            decode(one)
        except ImageError as error:
            assert str(error) == CRASHED
            return False
        return True

    with IsolatedDecoder() as one, IsolatedDecoder() as other, ThreadPoolExecutor(4) as pool:
        found = [
            pool.submit(works, (one, other)[at % 2].decode_pixels, content)
            for at, content in enumerate(data)
        ]
        assert [future.result() for future in found] == [not d.endswith(CRASH) for d in data]
        assert 1 <= len(decoding_processes(os.getpid())) <= 8
    assert decoding_processes(os.getpid()) == []


def test_close_ends_who_decodes(hostile: None, deadline: None) -> None:
    decoder = IsolatedDecoder()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(decoder.decode_pixels, GOOD + HANG) for _ in range(2)]
        while len(decoding_processes(os.getpid())) < 2:
            time.sleep(0.05)
        time.sleep(0.5)
        decoder.close()
        for future in waiting:
            with pytest.raises(LookalikeError, match="closed"):
                future.result()
    assert decoding_processes(os.getpid()) == []
    with pytest.raises(LookalikeError, match="closed"):
        decoder.decode_pixels(GOOD)
    decoder.close()


@pytest.mark.parametrize(
    ("executable", "why"),
    [("/nowhere/python", "No such file"), (shutil.which("false"), "exit code 1")],
)
def test_what_cannot_start_is_an_error(
    executable: str, why: str, decoder: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(LookalikeError, match=why) as error:
        decoder.decode_pixels(GOOD)
    assert "\n" not in str(error.value)


def test_why_it_does_not_start_is_said(
    decoder: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = [path for path in sys.path if "site-packages" not in path]
    monkeypatch.setattr(sys, "path", here)
    with pytest.raises(LookalikeError, match="No module named 'numpy'"):
        decoder.decode_pixels(GOOD)


SCRIPT = """
import sys
from lookalike.images import IsolatedDecoder
decoder = IsolatedDecoder()
decoder.decode_pixels(open(sys.argv[1], "rb").read())
print("decoded", flush=True)
"""


def test_a_package_in_a_zip(tmp_path: Path) -> None:
    """As `spark-submit --py-files` brings it to the workers."""
    package = Path(lookalike.__file__).parent
    with zipfile.ZipFile(tmp_path / "lookalike.zip", "w") as file:
        for path in package.rglob("*.py"):
            file.write(path, path.relative_to(package.parent))
    (tmp_path / "good.jpg").write_bytes(GOOD)
    script = f"import sys; sys.path.insert(0, 'lookalike.zip'){SCRIPT}"
    script += "import lookalike; print(lookalike.__file__)"
    command = [sys.executable, "-c", script, "good.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout.split() == ["decoded", str(Path("lookalike.zip/lookalike/__init__.py"))]
    assert done.stderr == ""


@pytest.mark.parametrize("mark", [b"", HANG], ids=["waiting", "hanging"])
def test_nothing_outlives_a_killed_process(
    mark: bytes, hostile: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SECONDS", "3")
    (tmp_path / "one.jpg").write_bytes(GOOD + mark)
    script = f"{SCRIPT}import time; time.sleep(600)"
    command = [sys.executable, "-c", script, str(tmp_path / "one.jpg")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if not mark and process.stdout:
            assert process.stdout.readline() == "decoded\n"
        until = time.monotonic() + 20
        while not (started := decoding_processes(process.pid)) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.5)  # until it decodes
        process.kill()
    assert len(started) == 1
    assert gone(started)


def test_the_end_of_the_interpreter_is_the_end_of_them(tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes(GOOD)
    script = f"{SCRIPT}print(*[process._process.pid for process in decoder._all])"
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "one.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert gone([int(done.stdout.split()[-1])])


# --- embed_batches ------------------------------------------------------------------------------


def contents(data: list[bytes]) -> Iterator[pa.RecordBatch]:
    rows = [{"id": at, "path": f"{at}.jpg", "content": one} for at, one in enumerate(data)]
    for start in range(0, len(rows), 20):
        yield pa.RecordBatch.from_pylist(rows[start : start + 20], schema=IMAGE)


@pytest.fixture(scope="module")
def embed() -> ImageEmbedder:
    return ImageEmbedder(precision="f32")


@pytest.mark.parametrize("threads", [1, THREADS])
def test_embedded_in_isolation(
    threads: int, hostile: None, short: None, embed: ImageEmbedder
) -> None:
    data = [GOOD] * 33
    bad = {7: (CRASH, CRASHED), 8: (CRASH, CRASHED), 30: (HANG, "decoding took over 1 s")}
    for at, (mark, _) in bad.items():
        data[at] = GOOD + mark
    source = Source("files", "/")
    rows = embed_batches(contents(data), source, embed.model, threads, isolated=True)
    table = pa.Table.from_batches(list(rows)).to_pylist()
    assert [row["id"] for row in table] == list(range(33))
    reasons = {row["id"]: row["reason"] for row in table if row["status"] == "skipped"}
    assert reasons == {at: reason for at, (_, reason) in bad.items()}
    assert all(row["content_hash"] for row in table)
    assert decoding_processes(os.getpid()) == []


@pytest.mark.parametrize("threads", [1, THREADS])
@pytest.mark.parametrize("how", ["closed", "forgotten", "thrown into", "failed"])
def test_decoders_end_with_the_generator(threads: int, how: str, embed: ImageEmbedder) -> None:
    def given() -> Iterator[pa.RecordBatch]:
        yield from contents([GOOD] * 80)  # of which threads take no more than 76 ahead
        if how == "failed":
            raise KeyError("the disk")

    rows = embed_batches(given(), Source("files", "/"), embed.model, threads, isolated=True)
    next(rows)
    assert decoding_processes(os.getpid())
    if how == "closed":
        rows.close()  # type: ignore[attr-defined]
    elif how == "forgotten":
        del rows
    elif how == "thrown into":
        with pytest.raises(KeyError):
            rows.throw(KeyError("stop"))  # type: ignore[attr-defined]
    else:
        with pytest.raises(KeyError, match="disk"):
            list(rows)
    assert decoding_processes(os.getpid()) == []


EXPENDABLE = """
import signal, sys, pyarrow as pa
from lookalike import ImageEmbedder
from lookalike.ingest.batches import embed_batches
from lookalike.images import Source
from lookalike.images.inputs.listing import IMAGE
if "handler" in sys.argv:
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("not for me"))
batch = pa.RecordBatch.from_pylist(
    [{"id": n, "path": "x", "content": open(p, "rb").read()} for n, p in enumerate(sys.argv[2:])],
    schema=IMAGE,
)
model = ImageEmbedder(precision="f32").model
expendable = sys.argv[1] == "expendable"
rows = list(embed_batches([batch], Source("files", "/"), model, 1, expendable=expendable))
assert [row["status"] for row in rows[0].to_pylist()] == ["ok"]
print("done", flush=True)
import time; time.sleep(2)  # the alarm is off
"""


@pytest.mark.parametrize(
    ("mode", "mark", "code"),
    [("expendable", HANG, -signal.SIGALRM), ("expendable", b"", 0), ("mine", b"", 0)],
)
def test_an_expendable_process_ends_rather_than_hangs(
    mode: str, mark: bytes, code: int, hostile: None, short: None, tmp_path: Path
) -> None:
    (tmp_path / "one.jpg").write_bytes(GOOD + mark)
    command = [sys.executable, "-c", EXPENDABLE, mode, str(tmp_path / "one.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stdout == ("" if code else "done\n")


# --- whole runs ---------------------------------------------------------------------------------


def photos_with(drawn: DrawnCollection, folder: Path, marks: dict[str, bytes]) -> Path:
    """Copy 8 drawn photos and write bad ones beside them, each drawn otherwise."""
    folder.mkdir()
    photos = sorted(drawn.photos.rglob("*.jpg"))
    for photo in photos[:8]:
        shutil.copy(photo, folder / photo.name)
    for photo, (name, mark) in zip(photos[8:], marks.items(), strict=False):
        (folder / name).write_bytes(photo.read_bytes() + mark)
    return folder


@pytest.mark.parametrize("road", ["--no-spark", pytest.param("--spark", marks=pytest.mark.long)])
def test_an_index_of_hostile_images(
    road: str, hostile: None, short: None, drawn: DrawnCollection, tmp_path: Path
) -> None:
    """On Spark a worker dies of each, which takes a try of its task; the next one isolates."""
    marks = {"000-crash.jpg": CRASH, "999-hang.jpg": HANG}
    photos, out = photos_with(drawn, tmp_path / "photos", marks), tmp_path / "x.index"
    command = [COMMAND, "index", str(photos), "--out", str(out), road]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "8 images embedded" in done.stderr and "2 skipped" in done.stderr
    assert EmbeddingTable.open(out).counts() == (8, 2)
    assert "Traceback" not in done.stderr
    assert dict(EmbeddingTable.open(out).skipped()) == {
        "000-crash.jpg": CRASHED,
        "999-hang.jpg": "decoding took over 1 s",
    }
    info = [COMMAND, "info", str(out), "--skipped"]
    said = subprocess.run(info, capture_output=True, text=True, timeout=60).stdout
    assert CRASHED in said and "decoding took over 1 s" in said
    assert os.listdir(tmp_path / "x.index" / "data")


@pytest.mark.parametrize(
    ("master", "failures", "again"),
    [
        ("local", "", False),
        ("local[*]", "", False),
        ("local[2,4]", "", True),
        ("local[*, 1]", "", False),
        ("local-cluster[2,1,1024]", "", True),
        ("yarn", "", True),
        ("spark://host:7077", "1", False),
    ],
)
def test_whether_spark_tries_again(master: str, failures: str, again: bool) -> None:
    settings = {"spark.master": master, "spark.task.maxFailures": failures}
    given: Any = SimpleNamespace(conf=settings)
    assert retries_tasks(given) is again


@pytest.mark.long
def test_spark_that_tries_once_isolates_at_once(
    hostile: None,
    drawn: DrawnCollection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a session in a notebook mostly does: `local[2]` knows no second try."""
    monkeypatch.setenv("SPARK_MASTER", "local[2]")
    photos = photos_with(drawn, tmp_path / "photos", {"000-crash.jpg": CRASH})
    command = [COMMAND, "index", str(photos), "--out", str(tmp_path / "x.index")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert dict(EmbeddingTable.open(tmp_path / "x.index").skipped()) == {"000-crash.jpg": CRASHED}


def test_ctrl_c_ends_all_in_silence(
    hostile: None, drawn: DrawnCollection, tmp_path: Path, deadline: None
) -> None:
    marks = {f"{n}.jpg": HANG for n in range(THREADS + 1)}
    photos = photos_with(drawn, tmp_path / "photos", marks)
    command = [COMMAND, "index", str(photos), "--out", str(tmp_path / "x.index"), "--no-spark"]
    # A shell that runs these tests in the background has them, and what they start, ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        signal.signal(signal.SIGINT, before)
        try:
            while not (started := decoding_processes(process.pid)):
                time.sleep(0.05)
            time.sleep(1)
            os.killpg(process.pid, signal.SIGINT)
            said = process.communicate()[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].startswith("stopped; nothing was changed")
    assert "Traceback" not in said and "Exception" not in said
    assert gone(started, 2)
    assert os.listdir(tmp_path) == ["photos"]


def test_a_signal_from_the_terminal_is_for_the_caller(decoder: IsolatedDecoder) -> None:
    assert_is_good(decoder)
    os.kill(pid := only_process(), signal.SIGINT)
    assert_is_good(decoder)
    assert only_process() == pid


def test_thumbnails_are_upright_small_and_without_what_the_file_says(
    decoder: IsolatedDecoder,
) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a place"
    whole = io.BytesIO()
    photo = Image.linear_gradient("L").convert("RGB").resize((900, 600))
    photo.save(whole, "JPEG", exif=exif, comment=b"a secret")
    jpeg = decoder.thumbnail(whole.getvalue(), 300)
    with Image.open(io.BytesIO(jpeg)) as small:
        assert (small.format, small.size) == ("JPEG", (200, 300))
        assert not dict(small.getexif()) and "comment" not in small.info
        dark, light = small.getpixel((190, 150)), small.getpixel((10, 150))
        assert isinstance(dark, tuple) and isinstance(light, tuple) and dark[0] < light[0]
    with Image.open(io.BytesIO(decoder.thumbnail(GOOD, 1280))) as kept:
        assert kept.size == (256, 256)  # never enlarged
    noise = Image.effect_noise((2500, 2500), 100)
    assert len(decoder.thumbnail(encoded(noise), 2500)) > 300_000  # more than pixels take
    with pytest.raises(ImageError, match="empty file"):
        decoder.thumbnail(b"", 300)


def test_a_decoder_of_lower_limits() -> None:
    with IsolatedDecoder(max_pixels=1000 * 1000) as decoder:
        assert decoder.decode_pixels(encoded(Image.new("RGB", (1000, 1000))))[1] == (1000, 1000)
        assert "too many pixels" in reason_of(decoder, encoded(Image.new("RGB", (1001, 1000))))


def test_two_decoders_have_a_process_each() -> None:
    with IsolatedDecoder() as one, IsolatedDecoder() as other:
        assert_is_good(one)
        assert_is_good(other)
        assert len(decoding_processes(os.getpid())) == 2
