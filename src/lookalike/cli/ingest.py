"""The commands that embed images, and those that keep an index up to date."""

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

from lookalike.cli.options import (
    AsJson,
    Device,
    DryRun,
    EmbeddingColumn,
    IdColumn,
    ImageName,
    ImagesArgument,
    IndexArgument,
    KeepColumns,
    LabelName,
    Labels,
    MetricOption,
    NoFormulas,
    PathColumn,
    UseSpark,
    Wave,
    takes_images,
    with_signature,
)
from lookalike.cli.output import (
    answers,
    last_words,
    notes,
    printable,
    show_ignored,
    show_json,
    show_labels,
    show_report,
    stopped_well,
)
from lookalike.system.defaults import WAVE_IMAGES

if TYPE_CHECKING:
    from lookalike.index import Index
    from lookalike.ingest import Changed, Options
    from lookalike.ingest.watch import Scan


_MIN_EVERY_SECONDS, _MAX_EVERY_SECONDS = 0.01, 10**7


@takes_images
def embed(
    images: list[str],
    out: Path,
    options: "Options",
    overwrite: bool,
    as_json: bool,
    no_formulas: NoFormulas = False,
) -> None:
    """Embed images into a CSV file, or a folder of Parquet files.

    The result is a CSV file if the name ends in .csv.

    Example: `lookalike embed cars_train --labels cardatasettrain.csv -o cars.csv`
    """
    from lookalike.ingest.export import is_csv, skipped_file, write_embeddings

    if no_formulas and not is_csv(out):
        raise typer.BadParameter("--no-formulas needs an --out that ends in .csv")
    report = write_embeddings(images, out, options, overwrite, no_formulas=no_formulas)
    if as_json:
        show_json(report.to_dict())
        return
    show_report(report, str(out))
    if report.skipped:
        notes.print(f"  why: {skipped_file(out.absolute())}", markup=False)


@takes_images
def index(
    images: list[str],
    out: Path,
    options: "Options",
    overwrite: bool,
    as_json: bool,
    embedding_column: EmbeddingColumn = None,
    id_column: IdColumn = None,
    path_column: PathColumn = None,
    keep_columns: KeepColumns = None,
    metric: MetricOption = "cosine",
) -> None:
    """Embed images into an index that can be searched, or index vectors of your own.

    Progress is saved as it goes: run the same command again to continue where it was stopped, or,
    later, to embed new and changed images.

    Example: `lookalike index cars_train --labels cardatasettrain.csv -o cars.index`
    """
    from dataclasses import replace

    from lookalike.ingest import build_index
    from lookalike.storage import is_index, rebuild_folder
    from lookalike.system.uris import with_slashes

    options = replace(
        options,
        embedding_column=embedding_column,
        id_column=id_column,
        path_column=path_column,
        keep_columns=keep_columns or (),
        metric=metric,
    )
    # An index stays in place until its successor is complete.
    growing = str(rebuild_folder(out)) if overwrite and is_index(out) else with_slashes(out)
    with stopped_well(growing, "nothing was changed"):
        report = build_index(images, out, options, overwrite)[1]
    if as_json:
        show_json(report.to_dict())
        return
    shown = with_slashes(out)
    if report.same and not report.images + report.skipped:
        same = f"nothing is new or changed: {report.same:,} inputs are in {shown} already"
        notes.print(same, markup=False)
        show_ignored(report.not_looked_at)
    else:
        show_report(report, shown)
    if report.skipped:
        notes.print(f"  why: lookalike info {shown} --skipped", markup=False)


def _updates(command: "Callable[..., Changed]") -> Callable[..., None]:
    """Give a command the options that say which images are added to an index, and how.

    The command is called with the index, the images as it declares them itself, and the options of
    `Index.add`.
    """

    def with_options(  # type: ignore[no-untyped-def]
        index: IndexArgument,
        images,  # as the command declares them
        labels: Labels = None,
        image_name: ImageName = "image",
        label_name: LabelName = "Class",
        device: Device = "auto",
        spark: UseSpark = None,
        wave: Wave = WAVE_IMAGES,
        dry_run: DryRun = False,
        as_json: AsJson = False,
    ) -> None:
        from lookalike.create import open_index

        with stopped_well(index, "nothing was changed"):
            done = command(
                open_index(index),
                images,
                labels=labels,
                image_name=image_name,
                label_name=label_name,
                device=device,
                spark=spark,
                wave=wave,
                dry_run=dry_run,
                on_change=_print_change if dry_run and not as_json else None,
            )
        _show_changes(done, index, dry_run, as_json)

    own = inspect.signature(command).parameters["images"]
    common = inspect.signature(with_options).parameters
    return with_signature(with_options, command, (common | {"images": own}).values())


@_updates
def add(index: "Index", images: ImagesArgument, **options: Any) -> "Changed":
    """Add images to an index: embed those that are new or changed.

    Example: `lookalike add cars.index new_photos/`
    """
    return index.add(images, **options)


@_updates
def sync(
    index: "Index",
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES]", help="The folder. [default: the folder that was indexed]"
        ),
    ] = None,
    **options: Any,
) -> "Changed":
    """Make an index equal to its folder: add new and changed images, remove deleted ones.

    Example: `lookalike sync cars.index --dry-run`
    """
    return index.sync(images or None, **options)


def watch(
    index: IndexArgument,
    folder: Annotated[
        str | None,
        typer.Argument(
            metavar="[FOLDER]", help="The folder to watch. [default: the folder that was indexed]"
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(help="Seconds between two scans of the folder.", metavar="SECONDS")
    ] = 10.0,
    once: Annotated[
        bool, typer.Option("--once", help="Scan once and end, for use with cron.")
    ] = False,
    keep_gone: Annotated[
        bool, typer.Option("--keep-gone", help="Keep deleted images in the index.")
    ] = False,
    spark: Annotated[
        bool, typer.Option("--spark", help="Watch with a Spark stream, which sees new files only.")
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Folder or URI for the checkpoint of the stream. [default: INDEX/.watch]"
        ),
    ] = None,
    labels: Labels = None,
    image_name: ImageName = "image",
    label_name: LabelName = "Class",
    device: Device = "auto",
    wave: Wave = WAVE_IMAGES,
    as_json: AsJson = False,
) -> None:
    """Keep an index equal to its folder until Ctrl-C, by a `sync` every few seconds.

    A file that is still being written waits until it is complete. While the folder is unavailable,
    the index stays as it is. With `--spark`, only new files are found, in a folder or in a data
    lake; run `sync` for changed and deleted files.

    Example: `lookalike watch photos.index --every 60`
    """
    from lookalike.ingest import Options
    from lookalike.ingest.watch import watch_folder, watch_stream
    from lookalike.storage import EmbeddingTable

    if not _MIN_EVERY_SECONDS <= every <= _MAX_EVERY_SECONDS:
        raise typer.BadParameter(
            f"--every takes seconds from {_MIN_EVERY_SECONDS} to {_MAX_EVERY_SECONDS:,}"
        )
    if checkpoint is not None and not spark:
        raise typer.BadParameter("--checkpoint needs --spark")
    options = Options(labels, image_name, label_name, device=device, wave=wave)
    stored = EmbeddingTable.open(index)
    place = folder or (stored.own.place or "its table" if stored.own else stored.source.root)
    if spark:
        scans = watch_stream(index, folder, options, every=every, checkpoint=checkpoint, once=once)
    else:
        scans = watch_folder(index, folder, options, every=every, keep_gone=keep_gone, once=once)
    with _until_stopped(index), contextlib.closing(scans):
        if not once:
            notes.print(
                f"watching {printable(place)} every {every:g} s, Ctrl-C ends it", markup=False
            )
        _show_scans(scans, every, once, as_json)


def _show_scans(scans: "Iterator[Scan]", every: float, once: bool, as_json: bool) -> None:
    """Print each change to the index, each problem once, and each ignored file type once."""
    problem, unstable = "", 0
    reported: set[str] = set()
    for scan in scans:
        changed = scan.changed
        ignored = changed.not_looked_at if changed else {}
        show_ignored({type_: n for type_, n in ignored.items() if type_ not in reported})
        reported |= ignored.keys()
        before, problem, unstable = problem, "", scan.unstable
        if scan.error is not None:
            problem = printable(last_words(scan.error))
            if problem != before:
                notes.print(f"{problem}; trying again every {every:g} s", markup=False)
        elif before:
            notes.print("continuing", markup=False)
        if changed is not None and scan.has_new_version:
            if as_json:
                show_json(changed.to_dict())
            else:
                answers.print(f"{_counts(changed)}: version {changed.version}", markup=False)
    if once and unstable:
        notes.print(f"{unstable:,} still being written: left for later")


@contextlib.contextmanager
def _until_stopped(index: str) -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does; print what the index then holds."""
    from lookalike.storage import EmbeddingTable

    terminated = False

    def stop(*_: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        stored = EmbeddingTable.open(index)
        inputs = sum(stored.counts())
        line = f"stopped: {index} is at version {stored.version}, {inputs:,} inputs"
        if not terminated:
            raise KeyboardInterrupt(line) from None
        notes.print(line, markup=False)
    finally:
        signal.signal(signal.SIGTERM, before)


def remove(
    index: IndexArgument,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAMES]...", help="Paths, folders, or globs in quotes; keys of your vectors."
        ),
    ] = None,
    names_from: Annotated[
        str | None,
        typer.Option(
            "--from", help="A file with one name on each line; - for stdin.", metavar="FILE"
        ),
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
        raise typer.BadParameter("give NAMES, or --from with a file of names")
    done = open_index(index).remove(
        given, dry_run=dry_run, on_change=_print_change if dry_run and not as_json else None
    )
    _show_changes(done, index, dry_run, as_json)


def _lines(file: str | None) -> list[str]:
    if file is None:
        return []
    from lookalike.system.paths import local_path

    content = sys.stdin.buffer.read() if file == "-" else local_path(file).read_bytes()
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [os.fsdecode(name) for line in lines if (name := line.removesuffix(b"\r"))]


def _print_change(sign: str, path: str) -> None:
    print(sign, printable(path))  # noqa: T201 - plain text, to be piped


def _counts(done: "Changed") -> str:
    counts = {
        "new": done.new,
        "changed": done.changed,
        "removed": done.removed,
        "skipped": done.skipped,
    }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _show_changes(done: "Changed", index: str, dry_run: bool, as_json: bool) -> None:
    if as_json:
        show_json(done.to_dict())
        return
    counts = _counts(done)
    if dry_run:
        notes.print(f"would be: {counts or 'nothing'}; nothing was changed", markup=False)
    elif not counts:
        notes.print(f"nothing to do: {done.same:,} inputs have not changed", markup=False)
    else:
        network = f", embedded with {done.backbone}" if done.images and done.backbone else ""
        notes.print(f"{counts}: {index} is at version {done.version}{network}", markup=False)
    if done.skipped:
        notes.print(f"  why: lookalike info {index} --skipped", markup=False)
    show_ignored(done.not_looked_at)
    show_labels(done.unused_labels, done.loose_labels, done.missing_labels)
