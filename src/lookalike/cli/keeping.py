"""The commands that keep an index as its images are: add, remove, sync, watch."""

import codecs
import contextlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.build import Changed, Options, ReadOptions
from lookalike.build.jobs import WAVE
from lookalike.cli.arguments import (
    AsJson,
    Device,
    DryRun,
    Every,
    ImageName,
    ImagesArgument,
    IndexArgument,
    LabelName,
    Labels,
    UseSpark,
    Wave,
)
from lookalike.cli.printing import (
    answers,
    last_words,
    notes,
    printable,
    show_json,
    show_labels,
    show_left_out,
    stopped_well,
)
from lookalike.given import local_path
from lookalike.storage import EmbeddingTable

if TYPE_CHECKING:
    from lookalike.index import Index


_LONGEST = 10**7  # seconds between two looks


def _brings_in(command: Callable[..., Changed]) -> Callable[..., None]:
    """Give a command the arguments that say which images an index is to have, and how.

    It gets the index, the images as it describes them itself, and the options of `Index.add`.
    """

    def with_arguments(  # type: ignore[no-untyped-def]
        index: IndexArgument,
        images,  # as the command has it
        labels: Labels = None,
        image_name: ImageName = "image",
        label_name: LabelName = "Class",
        device: Device = "auto",
        spark: UseSpark = None,
        wave: Wave = WAVE,
        dry_run: DryRun = False,
        as_json: AsJson = False,
    ) -> None:
        from lookalike.create import open_index

        options: ReadOptions = {
            "labels": labels,
            "image_name": image_name,
            "label_name": label_name,
            "device": device,
            "spark": spark,
            "wave": wave,
        }
        say = _say if dry_run and not as_json else None
        with stopped_well(index, "nothing was changed"):
            done = command(open_index(index), images, dry_run=dry_run, on_change=say, **options)
        _show(done, index, dry_run, as_json)

    own = inspect.signature(command).parameters["images"]
    common = inspect.signature(with_arguments).parameters
    with_arguments.__doc__ = command.__doc__
    with_arguments.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        list((common | {"images": own}).values())
    )
    return with_arguments


@_brings_in
def add(index: "Index", images: ImagesArgument, **options: Any) -> Changed:
    """Add images to an index: what is new or changed is embedded, the rest left alone.

    Example: `lookalike add cars.index new_photos/`
    """
    return index.add(images, **options)


@_brings_in
def sync(
    index: "Index",
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGES]", help="The folder. [default: the index's own]"),
    ] = None,
    **options: Any,
) -> Changed:
    """Make an index equal to its folder: add what is new or changed, remove what is gone.

    Example: `lookalike sync cars.index --dry-run`
    """
    return index.sync(images or None, **options)


def watch(
    index: IndexArgument,
    folder: Annotated[
        str | None,
        typer.Argument(metavar="[FOLDER]", help="What to watch. [default: the index's own]"),
    ] = None,
    every: Every = 10.0,
    once: Annotated[bool, typer.Option("--once", help="One look, then the end: for cron.")] = False,
    keep_gone: Annotated[
        bool, typer.Option("--keep-gone", help="Add only; what is gone stays in the index.")
    ] = False,
    spark: Annotated[
        bool,
        typer.Option("--spark", help="By a stream of Spark's, which sees new files only."),
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Folder or URI where the stream notes what it has seen. [default: INDEX/.watch]"
        ),
    ] = None,
    labels: Labels = None,
    image_name: ImageName = "image",
    label_name: LabelName = "Class",
    device: Device = "auto",
    wave: Wave = WAVE,
    as_json: AsJson = False,
) -> None:
    """Keep an index current with its folder until Ctrl-C: `sync`, again and again.

    A file that is still being written waits until it is whole. A folder that is away for a while
    empties nothing. With `--spark` new files alone are found, in a folder or in a lake: what was
    changed or removed, a `sync` finds.

    Example: `lookalike watch photos.index --every 60`
    """
    from lookalike import watch as watching

    if not 0.01 <= every <= _LONGEST:
        raise typer.BadParameter(f"--every is a time in seconds, 0.01 to {_LONGEST:,}")
    if checkpoint is not None and not spark:
        raise typer.BadParameter("--checkpoint goes with --spark")
    options = Options(labels, image_name, label_name, device=device, wave=wave)
    place = folder or EmbeddingTable.open(index).source.root
    if spark:
        looks = watching.stream(
            index, folder, options, every=every, checkpoint=checkpoint, once=once
        )
    else:
        looks = watching.looks(index, folder, options, every=every, keep_gone=keep_gone, once=once)
    with _until_stopped(index), contextlib.closing(looks):
        if not once:
            notes.print(
                f"watching {printable(place)} every {every:g} s, Ctrl-C ends it", markup=False
            )
        trouble = ""
        told: set[str] = set()  # types of files that are no images
        for look in looks:
            left_out = look.done.not_looked_at if look.done else {}
            show_left_out({type_: n for type_, n in left_out.items() if type_ not in told})
            told |= left_out.keys()
            before, trouble = trouble, ""
            if look.trouble is not None:
                trouble = printable(last_words(look.trouble))
                if trouble != before:
                    notes.print(f"{trouble}; trying again every {every:g} s", markup=False)
            elif before:
                notes.print("going on", markup=False)
            if look.done is not None and look.moved:
                if as_json:
                    show_json(look.done.to_dict())
                else:
                    answers.print(
                        f"{_counted(look.done)}: version {look.done.version}", markup=False
                    )
        if once and look.waiting:
            notes.print(
                f"{look.waiting:,} still being written: left for another time", markup=False
            )


@contextlib.contextmanager
def _until_stopped(index: Path) -> Iterator[None]:
    """Let Ctrl-C, or a signal to end, be the end of the block; say what the index then holds."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        stored = EmbeddingTable.open(index)
        inputs = sum(stored.counts())
        said = f"stopped: {index} is at version {stored.version}, {inputs:,} inputs"
        notes.print(said, markup=False)
    finally:
        signal.signal(signal.SIGTERM, before)


def remove(
    index: IndexArgument,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAMES]...", help="Paths, folders, or globs in quotes."),
    ] = None,
    names_from: Annotated[
        str | None, typer.Option("--from", help="A file with a name a line; - for stdin.")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove images from an index, by path, folder or glob. The files themselves stay.

    Example: `lookalike remove cars.index 'blurred/*.jpg'`
    """
    from lookalike.create import open_index

    given = [*(names or []), *_lines(names_from)]
    if not given:
        raise typer.BadParameter("give NAMES, or --from a file of them")
    say = _say if dry_run and not as_json else None
    done = open_index(index).remove(given, dry_run=dry_run, on_change=say)
    _show(done, index, dry_run, as_json)


def root(
    index: IndexArgument,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where the photos are now.")],
) -> None:
    """Say where the photos of an index are now, after they or the index were moved.

    Example: `lookalike root cars.index /mnt/photos`
    """
    from lookalike.create import open_index

    open_index(index).relocate(folder)
    notes.print(f"the photos of {index} are in {folder}", markup=False)


def _lines(file: str | None) -> list[str]:
    if file is None:
        return []
    content = sys.stdin.buffer.read() if file == "-" else local_path(file).read_bytes()
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [os.fsdecode(name) for line in lines if (name := line.removesuffix(b"\r"))]


def _say(sign: str, path: str) -> None:
    print(sign, printable(path))  # noqa: T201 - plain text, to be piped


def _counted(done: Changed) -> str:
    counts = {
        "new": done.new,
        "changed": done.changed,
        "removed": done.removed,
        "skipped": done.skipped,
    }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _show(done: Changed, index: Path, dry_run: bool, as_json: bool) -> None:
    if as_json:
        show_json(done.to_dict())
        return
    said = _counted(done)
    if dry_run:
        notes.print(f"would be: {said or 'nothing'}; nothing was changed", markup=False)
    elif not said:
        notes.print(f"nothing to do: {done.same:,} inputs are as they were", markup=False)
    else:
        network = f", embedded with {done.backbone}" if done.images else ""
        notes.print(f"{said}: {index} is at version {done.version}{network}", markup=False)
    if done.skipped:
        notes.print(f"  why: lookalike info {index} --skipped", markup=False)
    show_left_out(done.not_looked_at)
    show_labels(done.unused_labels, done.loose_labels, done.missing_labels)
