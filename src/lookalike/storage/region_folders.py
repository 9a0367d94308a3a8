"""The folders of regions: rows in the order of their cells, written and read by `search/regions`.

A folder is `_regions/VERSION-TIME`. Its header comes last: a folder without one is unfinished, and
nobody reads it. Nothing in a folder ever changes. A header names the folders that it needs, as
regions of added rows leave those of the others where they are.
"""

import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lookalike.storage.remote.cache_use import using_cache
from lookalike.storage.remote.copies import copy_at
from lookalike.system.files import new_file
from lookalike.system.untrusted import read_json

REGIONS = "_regions"
"""The folder of an index with all folders of regions."""
HEADER = "header.json"
"""The file that makes a folder complete."""
DESCRIBING = (HEADER, "cells.npz", "layout.npz", "profile.json")
"""The files of a folder beside those with rows."""
_NAME = re.compile(r"(\d{1,18})-[0-9a-f]{16}")


def new_region_folder(version: int) -> str:
    """Return a name for the folder of the regions of a version; a later one is greater."""
    return f"{version}-{time.time_ns() // 1000:014x}{secrets.token_hex(1)}"


def is_region_folder(name: str) -> bool:
    """Tell whether a text is the name of a folder of regions, which is safe in a path."""
    return _NAME.fullmatch(name) is not None


def version_of(name: str) -> int:
    """Return the version that a folder of regions was made of."""
    return int(name.partition("-")[0])


def region_folders(path: Path) -> list[str]:
    """Return the names of the complete folders of the index at `path`, the newest version first."""
    copy = copy_at(path)
    if copy is None:
        root = path / REGIONS
        found = [] if root.is_symlink() else [file.parent.name for file in root.glob(f"*/{HEADER}")]
    else:
        names = (n for b in copy.store.below(REGIONS).list(1) for n in b["name"].to_pylist())
        found = [name.removesuffix(f"/{HEADER}") for name in names if name.endswith(f"/{HEADER}")]
    return sorted(filter(is_region_folder, found), key=lambda one: (version_of(one), one))[::-1]


def local_region_folder(path: Path, name: str) -> Path:
    """Return a folder with the describing files of a folder of regions; of a store fetched once.

    Raises `FileNotFoundError` where the store lacks one.
    """
    folder = path / REGIONS / name
    copy = copy_at(path)
    for file in () if copy is None else DESCRIBING:
        if copy is not None and not (folder / file).exists():
            with using_cache():
                folder.mkdir(parents=True, exist_ok=True)
                with new_file(folder / file, lasting=False) as part:
                    copy.store.download(f"{REGIONS}/{name}/{file}", part)
    return folder


def needed_folders(path: Path, names: Iterable[str], first: int) -> set[str]:
    """Return the complete folders that versions from `first` on can use.

    `names` are those of all complete ones. Besides the later ones that is the newest of those
    before, and what their headers name.
    """
    newest = {version_of(name): name for name in sorted(names)}  # of each version
    before = max((version for version in newest if version <= first), default=first)
    kept = {name for version, name in newest.items() if version >= before}
    for name in tuple(kept):
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept.update(read_json(local_region_folder(path, name) / HEADER)["folders"])
    return kept


def outdated_region_folders(path: Path, first: int) -> list[Path]:
    """Return the folders on a disk that no version from `first` on uses, unfinished ones too.

    No other process may write meanwhile.
    """
    root = path / REGIONS
    if root.is_symlink() or not root.is_dir():
        return []
    kept = needed_folders(path, region_folders(path), first)
    return sorted(one for one in root.iterdir() if one.name not in kept)
