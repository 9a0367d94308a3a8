"""Machines that write into one store, which fails at any moment, and lose or double nothing."""

import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers import machine_program
from helpers.machine_program import ANSWER_SECONDS, MAX_RETRIES, Rows
from helpers.machines import Machine
from helpers.stores import BUCKET, S3, Answer, proxy
from lookalike import LookalikeError
from lookalike.system import store_backends

BUSY = b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>"
BROKEN = b"<Error><Code>InternalError</Code><Message>We failed</Message></Error>"
KINDS = {
    "lost answer": Answer(reset=True, done=True),
    "reset": Answer(reset=True),
    "503": Answer(503, BUSY),
    "500": Answer(500, BROKEN),
    "503 when done": Answer(503, BUSY, done=True),
    "500 when done": Answer(500, BROKEN, done=True),
    "cut": Answer(cut=True),
    "slow": Answer(seconds=0.3),
    "done too late": Answer(seconds=ANSWER_SECONDS + 0.5),
    "old listing": Answer(hidden=1),
    "older listing": Answer(hidden=3),
}
SEEDS = 10
MOMENTS = 20  # of each seed


@dataclass
class Fault:
    """A fault from the request `at` on, for `times` requests: like it, or all that follow.

    With `kills` the machines whose numbers it has are killed at that request.
    """

    kind: str
    at: int
    times: int
    only_alike: bool
    kills: tuple[int, ...] = ()
    alike: tuple[str, str] | None = None

    def answers(self, number: int, request: tuple[str, str]) -> bool:
        """Tell whether it happens at a request; `number` counts those of a round."""
        if self.times == 0 or number < self.at:
            return False
        self.alike = self.alike or request
        if self.only_alike and self.alike != request:
            return False
        self.times -= 1
        return True


@dataclass
class Store:
    """What the proxy does in a round: its faults, and how many requests they were for."""

    machines: list[Machine] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    count: int = 0
    hit: list[str] = field(default_factory=list)
    quiet: float = 0.0  # when the store has done all requests
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, faults: list[Fault]) -> None:
        """Begin a round."""
        with self.lock:
            self.faults, self.count, self.hit = faults, 0, []

    def __call__(self, method: str, path: str) -> Answer | None:
        """Answer a request."""
        with self.lock:
            number, self.count = self.count, self.count + 1
            for fault in self.faults:
                if fault.answers(number, (method, path)):
                    self.hit.append(f"{fault.kind} at {number}: {method} {path[-60:]}")
                    for machine in fault.kills:
                        self.machines[machine].kill()
                    answer = KINDS[fault.kind]
                    self.quiet = max(self.quiet, time.monotonic() + answer.seconds + 0.3)
                    return answer
        return None


@dataclass
class Task:
    """What a machine does, and what the index has to hold then."""

    name: str
    given: dict[str, Any]
    after: Rows


class Site:
    """Two machines that write, a third one that looks, and what they wrote."""

    def __init__(self, folder: Path, address: str, store: Store) -> None:
        self.store = store
        self.machines = store.machines = [Machine(folder / name, address) for name in "ab"]
        self.third = Machine(folder / "c", address)
        self.folder = folder
        self.usual: dict[str, int] = {}  # requests of a task
        self.looks = 0

    def begin(self, seed: int) -> None:
        """Begin anew, with another index."""
        self.draw = random.Random(seed)
        self.uri = f"s3://{BUCKET}/{seed}/{self.draw.randrange(10**9)}/own.index"
        self.rows: Rows = {}
        self.moments = 0
        self.said: list[str] = []
        for machine in (*self.machines, self.third):
            machine.start()

    def run_round(self) -> None:
        """Let one machine or both do something while the store fails; then see what is there."""
        tasks = self.draw_tasks()
        faults = self.draw_faults(tasks)
        running = self.draw.sample(range(2), len(tasks))
        self.said = [*self.said[-2:], f"{[(task.name, task.given) for task in tasks]}"]
        self.store.begin(faults)
        for at, task in zip(running, tasks, strict=True):
            self.machines[at].begin(task.name, uri=self.uri, **task.given)
        answers = [self.machines[at].end() for at in running]
        self.moments += bool(self.store.hit)
        names = "+".join(task.name for task in tasks)
        if not any(fault.kills for fault in faults):
            self.usual[names] = self.store.count
        self.said[-1] += f" {self.store.hit} {answers}"
        self.store.begin([])
        for at, task, said in zip(running, tasks, answers, strict=True):
            self.accept(said)
            if "result" not in said:
                self.repeat(task, at)
        before = self.rows
        self.rows = {
            key: value for key, value in before.items() if all(key in task.after for task in tasks)
        }
        for task in tasks:
            self.rows |= dict(task.after.items() - before.items())
        time.sleep(max(0.0, self.store.quiet - time.monotonic()))
        self.look(versions=3)

    def accept(self, said: dict[str, Any]) -> None:
        """Fail where a machine said anything but a result, an error of one line, or nothing."""
        assert "crash" not in said, self.story(said["crash"])
        assert "\n" not in said.get("error", ""), self.story("an error of several lines")

    def repeat(self, task: Task, at: int) -> None:
        """Do a task again that has failed, on any machine, as a user would."""
        given = {"uri": self.uri, **task.given}
        for _ in range(5):  # a busy machine may be slow
            at = self.draw.choice((at, 1 - at))
            said = self.machines[at].do(task.name, **given)
            self.said[-1] += f", again on {at}: {said}"
            self.accept(said)
            done_before = task.name == "remove" and "none was removed" in said.get("error", "")
            if "result" in said or done_before:
                return
            if task.name == "create" and "has just created" in said["error"]:
                continue
        raise AssertionError(self.story("it fails without a fault too"))

    def look(self, versions: int) -> None:
        """Compare the index with what it has to be, on a machine that has nothing of it."""
        self.looks += 1
        cache = str(self.folder / f"look-{self.looks}")
        said = self.third.do(
            "compare", cache=cache, uri=self.uri, rows=self.rows, versions=versions
        )
        assert said == {"result": []}, self.story(f"{said}")

    def story(self, wrong: str) -> str:
        return "\n".join([f"{self.uri}, moment {self.moments}:", *self.said, wrong])

    def draw_tasks(self) -> list[Task]:
        """Return what one machine does, or both at once."""
        draw, rows = self.draw, self.rows
        if not rows:
            rows = {f"k{number}": 0 for number in range(6)}
            return [Task("create", {"rows": rows}, rows)] * draw.choice((1, 1, 2))
        keys = sorted(rows)
        draw.shuffle(keys)
        halves = [keys[::2], keys[1::2]]
        if draw.random() < 0.7:
            return [self.draw_task(keys, draw.choice(("add", "add", "remove", "sync", "vacuum")))]
        return [self.draw_task(half, draw.choice(("add", "remove", "vacuum"))) for half in halves]

    def draw_task(self, keys: list[str], name: str) -> Task:
        """Return what a machine does to rows with some of these keys, and to new ones."""
        draw, rows = self.draw, self.rows
        anew = draw.random() < 0.5
        some = draw.sample(keys, min(len(keys), draw.randint(1, 3)))
        fresh = {f"k{draw.randrange(10**6)}": draw.randrange(9) for _ in range(draw.randint(1, 3))}
        if name == "add":
            given = fresh | {key: draw.randrange(9) for key in keys[: draw.randrange(2)]}
            return Task("add", {"rows": given, "anew": anew}, rows | given)
        left = {key: value for key, value in rows.items() if key not in some}
        if name == "remove" and len(keys) > 4:
            return Task("remove", {"keys": some, "anew": anew}, left)
        if name == "sync":
            changed = {key: draw.randrange(9) for key in draw.sample(keys, 1)}
            after = (left if len(keys) > 4 else rows) | changed | fresh
            return Task("sync", {"rows": after, "anew": anew}, after)
        return Task("vacuum", {"anew": anew}, rows)

    def draw_faults(self, tasks: list[Task]) -> list[Fault]:
        """Return what goes wrong meanwhile, most often one thing."""
        draw = self.draw
        usual = self.usual.get("+".join(task.name for task in tasks), 12 * len(tasks))
        faults = [
            Fault(
                draw.choice(list(KINDS)),
                draw.randrange(usual),
                draw.choice((1, 1, 1, 2, MAX_RETRIES + 1, MAX_RETRIES + 3)),
                draw.random() < 0.6,
            )
            for _ in range(draw.choice((1, 1, 1, 2, 3)))
        ]
        if draw.random() < 0.15:  # before the request, or once it was sent
            kind = draw.choice(("reset", "lost answer"))
            faults[0] = Fault(
                kind, draw.randrange(usual), 1, False, draw.choice(((0,), (1,), (0, 1)))
            )
        return faults

    def close(self) -> None:
        for machine in (*self.machines, self.third):
            machine.close()


@pytest.fixture(scope="module")
def site(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    store = Store()
    with proxy(s3.port, store) as address:
        made = Site(tmp_path_factory.mktemp("machines"), address, store)
        yield made
        made.close()


@pytest.mark.long  # 200 moments, each with a look from a machine that has nothing: minutes
@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_lost_and_nothing_doubled(site: Site, seed: int) -> None:
    site.begin(seed)
    while site.moments < MOMENTS:
        site.run_round()
    site.look(versions=1_000)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Be a machine with an empty cache, which does not wait long."""
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "here"))
    monkeypatch.setattr(store_backends, "_MAX_RETRIES", 1)
    return monkeypatch


ROWS = {f"k{number}": number for number in range(8)}
MORE = {"m1": 1, "m2": 2}


def make(uri: str) -> None:
    assert machine_program.create(uri, ROWS) == len(ROWS)


def add(uri: str) -> None:
    assert machine_program.add(uri, MORE, anew=False) == len(MORE)


def look(here: pytest.MonkeyPatch, s3: S3, uri: str, rows: Rows, name: str) -> list[str]:
    """Compare an index with what it has to be, on a machine that has nothing of it."""
    with here.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", s3.address)
        patched.setenv("LOOKALIKE_CACHE", f"{os.environ['LOOKALIKE_CACHE']}-{name}")
        return machine_program.compare(uri, rows, 10)


@pytest.mark.parametrize(("kind", "times"), [("lost answer", 1), ("500 when done", 2)])  # of two
def test_a_commit_whose_answer_is_lost_is_made_once(
    s3: S3, here: pytest.MonkeyPatch, kind: str, times: int
) -> None:
    uri = f"s3://{BUCKET}/lost/{times}.index"
    for version, do in enumerate((make, add)):
        fault = Fault(kind, 0, times, only_alike=True, alike=commit_of(uri, version))
        store = Store(faults=[fault])
        with proxy(s3.port, store) as address:
            here.setenv("AWS_ENDPOINT_URL", address)
            do(uri)
        assert len(store.hit) == times
    assert look(here, s3, uri, ROWS | MORE, "look") == []
    assert len(machine_program._held[uri].versions()) == 2


def test_a_commit_that_the_store_refuses_leaves_the_version_before(
    s3: S3, here: pytest.MonkeyPatch
) -> None:
    uri = f"s3://{BUCKET}/refused.index"
    make(uri)
    store = Store(faults=[Fault("503", 0, 9, only_alike=True, alike=commit_of(uri, 1))])
    with proxy(s3.port, store) as address:
        here.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(LookalikeError, match="is overloaded or broken") as error:
            add(uri)
        assert "\n" not in str(error.value)
        assert len(store.hit) == 2
    assert look(here, s3, uri, ROWS, "between") == []
    here.setenv("AWS_ENDPOINT_URL", s3.address)
    add(uri)
    assert look(here, s3, uri, ROWS | MORE, "after") == []


def test_of_two_machines_that_commit_at_once_both_come_in(
    s3: S3, here: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uri = f"s3://{BUCKET}/both.index"
    make(uri)
    theirs = {"t1": 5}
    done: list[Any] = []
    other = Machine(tmp_path / "other", s3.address)
    other.start()

    def interrupt(method: str, path: str) -> None:
        if (method, path) == commit_of(uri, 1) and not done:
            done.append(other.do("add", uri=uri, rows=theirs, anew=True))

    try:
        with proxy(s3.port, interrupt) as address:
            here.setenv("AWS_ENDPOINT_URL", address)
            add(uri)
    finally:
        other.close()
    assert done == [{"result": 1}]
    assert look(here, s3, uri, ROWS | MORE | theirs, "look") == []


def commit_of(uri: str, version: int) -> tuple[str, str]:
    """Return method and path of the request that commits a version."""
    return "PUT", f"/{uri.removeprefix('s3://')}/_delta_log/{version:020}.json"
