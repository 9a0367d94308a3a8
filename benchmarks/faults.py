"""Kill commands that change an index at random instants, and see what is left. One line of JSON.

    python benchmarks/faults.py --kills 100 --json

`lookalike index`, `add`, `remove` and `sync` take turns, and every tenth time `index --overwrite`.
Each is killed with all its processes at an instant drawn evenly from what it takes undisturbed, in
CPU seconds, which are nearly the same whatever else the machine does. Then the index has to open
and be whole, the same command is run again, to its end, and what comes out has to equal what comes
out undisturbed. How many photos were embedded again is how often the system saw a photo opened, in
both runs together, beyond the once that an undisturbed run takes; Linux alone says that. `index
--overwrite` that is killed when it has done so already, and only deletes the old index, does it all
again, which does not count. `--spark` adds kills of `index --spark`. The network is a small one
with random weights: the vectors mean nothing, but are as good as any to see whether they are kept.
"""

import argparse
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError
from lookalike.images.synthetic import draw_collection
from lookalike.storage import EmbeddingTable, is_index, is_unfinished
from lookalike.storage.segments import is_intact
from measure import PATIENCE_S, cpu_by_process, machine, tree

COMMAND = [sys.executable, "-m", "lookalike"]
_CLOSED = 0x10  # IN_CLOSE_NOWRITE of inotify(7)
_LOOK_EVERY = 0.005  # seconds; the system counts CPU time in hundredths
_MOST_PROBLEMS = 20  # that are told in full

Row = tuple[int, str | None, str, str | None, Any]
"""Id, label, status, hash of the content, vector."""


@dataclass(frozen=True)
class Case:
    """A command that changes an index: what it starts from, and what may go or change by it.

    `changed` are paths as the index has them. `end` are the rows of an undisturbed run by their
    paths, `reads` the photos that it opened, `cpu_seconds` what it took of all cores together.
    """

    name: str
    arguments: list[str]
    start: Path | None
    wave: int
    changed: frozenset[str] = frozenset()
    cpu_seconds: float = 0.0
    reads: int = 0
    end: dict[str, Row] = field(default_factory=dict)


@dataclass
class Found:
    """What the kills of one command came to."""

    kills: int = 0
    killed_before_the_end: int = 0
    nothing_committed: int = 0
    corrupt: int = 0
    lost: int = 0
    not_gone_on_with: int = 0
    most_embedded_again: int = 0
    unequal: int = 0
    leftovers: int = 0
    survivors: int = 0


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--spark", type=int, default=0, metavar="KILLS")
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--new", type=int, default=40)
    parser.add_argument("--wave", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LOOKALIKE_CACHE"] = str(Path(folder, "cache"))
        print(json.dumps(run(given, Path(folder))))  # noqa: T201


def run(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Kill every command in turn; add up what was found."""
    started = time.perf_counter()
    opened = Opened()
    instants = random.Random(given.seed)
    plan: list[tuple[Case, int]] = []
    if given.kills:
        cases = prepare(work, given.photos, given.new, given.wave, opened)
        *often, seldom = cases
        few = given.kills // 10
        plan = [
            (case, len(range(at, given.kills - few, len(often)))) for at, case in enumerate(often)
        ]
        plan.append((seldom, few))
    if given.spark:
        plan.append((prepare_spark(work, given.photos, given.wave, opened), given.spark))
    problems: list[str] = []
    found = {}
    done = []
    for case, kills in plan:
        if not kills:
            continue
        found[case.name] = Found()
        if not case.end:
            case = undisturbed(case, work / "after", opened)
        done.append(case)
        for _ in range(kills):
            after = instants.uniform(0, case.cpu_seconds)
            told = try_once(case, after, work / "trial", opened, found[case.name])
            problems += [f"{case.name} killed after {after:.2f} CPU s: {one}" for one in told]
    each = {name: vars(one) for name, one in found.items()}
    total = {name: sum(one[name] for one in each.values()) for name in vars(Found())}
    again = "most_embedded_again"
    total[again] = max((one[again] for one in each.values()), default=0)
    return {
        "machine": machine(),
        "photos": given.photos,
        "new_photos": given.new,
        "seed": given.seed,
        **total,
        "commands": {
            case.name: {
                "wave": case.wave,
                "cpu_seconds": round(case.cpu_seconds, 2),
                **each[case.name],
            }
            for case in done
        },
        "problems": problems[:_MOST_PROBLEMS],
        "seconds": round(time.perf_counter() - started),
    }


def prepare(work: Path, photos: int, new: int, wave: int, opened: "Opened") -> list[Case]:
    """Draw photos and make the indexes that commands start from; the first has run undisturbed."""
    drawn = draw_collection(work, images=photos, held_out=new)
    opened.watch(drawn.photos, drawn.new)
    names = sorted(file.name for file in drawn.photos.iterdir())
    making = [*small_network(work), "--no-spark", "--wave", str(wave)]
    labels = ["--labels", str(drawn.labels)]
    few = max(wave // 4, 1)
    adding = ["--no-spark", "--wave", str(few)]
    index = Case("index", ["index", str(drawn.photos), "--out", "{}", *labels, *making], None, wave)
    # A folder that changes after it was indexed: some go, some come, some are others by now.
    synced = work / "synced"
    synced.mkdir()
    opened.watch(synced)
    for name in names[: max(photos // 4, new)]:
        os.link(drawn.photos / name, synced / name)
    before = work / "before" / "photos.index"
    finish([*COMMAND, "index", str(synced), "--out", str(before), *making])
    # The first run finds no model in the cache, and is not timed for that.
    made = undisturbed(index, work / "made", opened)
    start = work / "made" / "photos.index"
    anew = Case("index --overwrite", [*index.arguments, "--overwrite"], start, wave)
    add = Case("add", ["add", "{}", str(drawn.new), *adding], start, few)
    gone = frozenset(name for name in names if name.endswith("1.jpg"))
    remove = Case("remove", ["remove", "{}", "*1.jpg"], start, 0, gone)
    leave, turn = names[: new // 2], names[new // 2 : new]
    for name in [*leave, *turn]:
        (synced / name).unlink()
    for name, other in zip(turn, reversed(names), strict=False):
        shutil.copy(drawn.photos / other, synced / name)
    for file in drawn.new.iterdir():
        os.link(file, synced / file.name)
    opened.count()
    sync = Case("sync", ["sync", "{}", *adding], before, few, frozenset(leave + turn))
    return [made, add, remove, sync, anew]


def prepare_spark(work: Path, photos: int, wave: int, opened: "Opened") -> Case:
    """Draw photos for `index --spark`."""
    drawn = draw_collection(work / "spark", images=photos, held_out=0)
    opened.watch(drawn.photos)
    making = [*small_network(work), "--spark", "--wave", str(wave)]
    return Case("index --spark", ["index", str(drawn.photos), "--out", "{}", *making], None, wave)


def small_network(work: Path) -> list[str]:
    """Write the weights of a small network; return the options that name it."""
    import torch
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(0)
    torch.save(shufflenet_v2_x0_5().state_dict(), work / "weights.pth")
    named = ["--model", "shufflenet_v2_x0_5", "--weights", str(work / "weights.pth")]
    return [*named, "--precision", "f32"]


def undisturbed(case: Case, folder: Path, opened: "Opened") -> Case:
    """Run a command to its end; return the case with what that took and gave."""
    index = set_up(case, folder)
    opened.count()
    cpu_seconds = finish(command_of(case, index))
    stored, problems = examine(index)
    if problems:
        raise SystemExit(f"{case.name} is wrong without any kill: {problems}")
    reads = opened.count()
    return Case(
        case.name, case.arguments, case.start, case.wave, case.changed, cpu_seconds, reads, stored
    )


def set_up(case: Case, folder: Path) -> Path:
    """Make a new folder with the index that a command starts from; return where it is."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if case.start is not None:  # all files are replaced when they change, never written to
        shutil.copytree(case.start, folder / "photos.index", copy_function=os.link)
    return folder / "photos.index"


def command_of(case: Case, index: Path) -> list[str]:
    """Return the whole command."""
    return [*COMMAND, *(str(index) if word == "{}" else word for word in case.arguments)]


def finish(command: list[str]) -> float:
    """Run a command to its end; return its CPU seconds. `SystemExit` if it fails."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        cpu_seconds = watch(process, float("inf"))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    return cpu_seconds


def watch(process: "subprocess.Popen[Any]", limit: float) -> float:
    """Wait until a process ends or has taken so many CPU seconds; return how many it took."""
    seconds: dict[Any, float] = {}  # of each that there was
    while process.poll() is None and sum(seconds.values()) < limit:
        time.sleep(_LOOK_EVERY)
        seconds.update(cpu_by_process(process.pid))
    return sum(seconds.values())


def outcome(command: list[str]) -> tuple[int, str]:
    """Run a command to its end; return its exit code and what it said."""
    done = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    return done.returncode, done.stderr


def try_once(case: Case, after: float, folder: Path, opened: "Opened", found: Found) -> list[str]:
    """Kill a command after some CPU seconds, look, run it again, look again; say what is wrong."""
    index = set_up(case, folder)
    opened.count()
    found.kills += 1
    killed, survivors = run_and_kill(command_of(case, index), after)
    found.killed_before_the_end += killed
    found.survivors += survivors
    problems = [f"{survivors} of its processes lived on"] if survivors else []
    committed = rows_of_log(index)
    runs = 1 + (case.name == "index --overwrite" and is_another(index, case.start))
    found.nothing_committed += not committed
    corrupt: list[str] = []
    if is_index(index):
        corrupt = examine(index)[1]
    elif committed or (index.exists() and not is_unfinished(index)):
        corrupt = ["it is taken for no index"]
    before = rows_of_log(case.start) if case.start else {}
    lost = [path for path in before if path not in case.changed and path not in committed]
    again = outcome(command_of(case, index))
    # What was removed before the kill cannot be removed again.
    if again[0] and not (case.name == "remove" and "none was removed" in again[1]):
        found.not_gone_on_with += 1
        problems.append(f"run again, it ends with {again[0]} and says {again[1].strip()}")
    if not is_index(index):
        return [*problems, *corrupt, "there is no index after it ran again"]
    end, damage = examine(index)
    corrupt += damage
    kept = {path: row for path, row in committed.items() if path not in case.changed}
    lost += [path for path, row in kept.items() if path not in end or end[path][0] != row]
    different = unequal(end, case.end)
    left = leftovers(index)
    embedded_again = opened.count() - runs * case.reads
    if case.wave and embedded_again > case.wave:
        problems.append(f"{embedded_again} photos were embedded again, a wave has {case.wave}")
    found.most_embedded_again = max(found.most_embedded_again, embedded_again)
    found.corrupt += bool(corrupt)
    found.lost += len(lost)
    found.unequal += len(different)
    found.leftovers += len(left)
    problems += corrupt
    problems += [f"lost {path}" for path in lost]
    problems += [f"not as undisturbed: {path}" for path in different]
    return [*problems, *(f"left over: {name}" for name in left)]


def is_another(index: Path, start: Path | None) -> bool:
    """Say whether there is another index in the place of the one that was there at the start."""
    log = f"_delta_log/{0:020}.json"
    assert start is not None
    return is_index(index) and not (index / log).samefile(start / log)


def run_and_kill(command: list[str], after: float) -> tuple[bool, int]:
    """Kill a command after some CPU seconds; say whether it still ran, and how many stayed."""
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    watch(process, after)
    if process.poll() is not None:
        return False, 0
    pids = list(tree(process.pid))
    groups = {process.pid}
    if "--spark" in command:  # Spark's workers make groups of their own
        for pid in pids:
            with suppress(ProcessLookupError):
                groups.add(os.getpgid(pid))
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    process.wait()
    give_up = time.perf_counter() + PATIENCE_S
    while (alive := sum(map(is_alive, pids))) and time.perf_counter() < give_up:
        time.sleep(0.02)
    return True, alive


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that nobody has waited for does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def rows_of_log(index: Path) -> dict[str, int]:
    """Return path and id of all rows that are committed, by the log as it lies there."""
    files: set[str] = set()
    for log in sorted((index / "_delta_log").glob("*.json")):
        for line in log.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                files.add(action["add"]["path"])
            elif "remove" in action:
                files.discard(action["remove"]["path"])
    rows: dict[str, int] = {}
    for name in files:
        table = pq.read_table(index / name, columns=["path", "id"], partitioning=None)
        rows.update(zip(table["path"].to_pylist(), table["id"].to_pylist(), strict=True))
    return rows


def examine(index: Path) -> tuple[dict[str, Row], list[str]]:
    """Open an index and look at every row; return them by path, and what is wrong."""
    try:
        stored = EmbeddingTable.open(index)
        return rows_by_path(stored), list(problems_of(stored))
    except LookalikeError as error:
        return {}, [str(error)]


def rows_by_path(stored: EmbeddingTable) -> dict[str, Row]:
    """Return all rows of a collection."""
    columns = ("id", "label", "status", "content_hash", "embedding")
    found: dict[str, Row] = {}
    for file in stored.files():
        table = pq.read_table(file, partitioning=None)
        rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
        found.update(zip(table["path"].to_pylist(), rows, strict=True))
    return found


def problems_of(stored: EmbeddingTable) -> Iterator[str]:
    """Say what is not as it has to be of a collection, whatever is in it."""
    paths: list[str] = []
    ids: list[int] = []
    embedded = 0
    for file, first, last, count in stored.id_ranges():
        if not is_intact(file):
            yield f"{file.name} is not what its name says"
        table = pq.read_table(file, partitioning=None)
        here = table["id"].to_pylist()
        if (len(here), min(here), max(here)) != (count, first, last):
            yield f"the log is wrong about {file.name}"
        paths += table["path"].to_pylist()
        ids += here
        for path, status, vector in zip(
            *(table[name].to_pylist() for name in ("path", "status", "embedding")), strict=True
        ):
            embedded += status == "ok"
            if (status == "ok") != (vector is not None):
                yield f"{path} is {status}, vector or not"
            if vector is not None and not abs(np.linalg.norm(vector) - 1) < 1e-5:
                yield f"the vector of {path} has not the length 1"
    if len(set(paths)) < len(paths):
        yield f"{len(paths) - len(set(paths))} paths are there twice"
    if len(set(ids)) < len(ids):
        yield f"{len(ids) - len(set(ids))} ids are there twice"
    if ids and max(ids) >= stored.next_id:
        yield "an id would be given again"
    counts = embedded, len(paths) - embedded
    said = stored.history()[0]
    if counts != stored.counts() or counts != (said["images"], said["skipped"]):
        yield f"it holds {counts}, its log says {stored.counts()} and {said}"


def unequal(one: dict[str, Row], other: dict[str, Row]) -> list[str]:
    """Return the paths whose rows differ in more than the id."""
    different = []
    for path in sorted(one.keys() | other.keys()):
        if path not in one or path not in other:
            different.append(path)
            continue
        _, *these, vector = one[path]
        _, *those, wanted = other[path]
        near = vector == wanted or np.allclose(vector, wanted, rtol=0, atol=1e-6)
        if these != those or not near:
            different.append(path)
    return different


def leftovers(index: Path) -> list[str]:
    """Return what lies in an index, or hidden beside it, and is no part of it."""
    log = "".join(file.read_text() for file in (index / "_delta_log").glob("*.json"))
    wanted = {Path("_lookalike.json"), Path("lookalike.json"), Path(".writers")}
    found = [str(other) for other in index.parent.glob(".*")]
    for path in sorted(index.rglob("*")):
        name = path.relative_to(index)
        top = name.parts[0]
        if path.is_dir():
            if not any(path.iterdir()) or name.name.startswith("."):
                found.append(str(name))
        elif top == "_delta_log":
            if not name.name.removesuffix(".json").isdecimal():
                found.append(str(name))
        elif top == "data":
            if name.name not in log:
                found.append(str(name))
        elif top != "_model" and name not in wanted:
            found.append(str(name))
    return found


class Opened:
    """Counts how often photos were opened, by whatever process: inotify(7)."""

    def __init__(self) -> None:
        self._system = ctypes.CDLL(None, use_errno=True)
        self._events = self._system.inotify_init1(os.O_NONBLOCK)
        if self._events < 0:
            raise SystemExit("the system tells nobody which files are opened")

    def watch(self, *folders: Path) -> None:
        """Count in these folders from now on."""
        for folder in folders:
            if self._system.inotify_add_watch(self._events, os.fsencode(folder), _CLOSED) < 0:
                raise SystemExit(f"{folder} cannot be watched: {os.strerror(ctypes.get_errno())}")

    def count(self) -> int:
        """Return how often it happened since it was last asked."""
        seen = 0
        with suppress(BlockingIOError):
            while data := os.read(self._events, 1 << 16):
                at = 0
                while at < len(data):
                    # The length of a name is the last of four numbers; folders have none.
                    length = int.from_bytes(data[at + 12 : at + 16], sys.byteorder)
                    seen += length > 0
                    at += 16 + length
        return seen


if __name__ == "__main__":
    main()
