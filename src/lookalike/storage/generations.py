"""The models of an index: an upgrade to another model begins a generation.

The log records the generation of each version, so an older version keeps its model. The description
has the model of generation 0 under `model`, those of later generations in the list `upgrades`.
"""

from pathlib import Path
from typing import Any

from lookalike.storage.description import NEWEST_FORMAT, find_folder


def description_of(description: dict[str, Any], generation: int) -> dict[str, Any]:
    """Return the part of a description that has the model of a generation."""
    if generation == 0:
        return description
    part: dict[str, Any] = description["upgrades"][generation - 1]
    return part


def record_generation(description: dict[str, Any], generation: int, part: dict[str, Any]) -> None:
    """Add the model of a generation, above 0, to a description.

    It replaces the model of an upgrade that was killed before its commit. Versions of lookalike
    that know one model for an index refuse it by its format.
    """
    description["upgrades"] = [*description.get("upgrades", [])[: generation - 1], part]
    description["format"] = NEWEST_FORMAT


def model_folder(path: Path, generation: int) -> Path:
    """Return the folder with the model of a generation of the index at `path`."""
    return path / f"_model-{generation}" if generation else find_folder(path, "model")


def signature_folder(path: Path, generation: int) -> Path:
    """Return the folder with cells and measured recall of a generation; it may not exist."""
    folder = find_folder(path, "signatures")
    return folder / f"generation-{generation}" if generation else folder
