"""The model that an index stores: load it, or give it the function that is not stored."""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lookalike.errors import LookalikeError
from lookalike.images import PREPROCESSING, Preprocessing, Source
from lookalike.models import Model
from lookalike.storage.description import FORMAT, NEWEST_FORMAT, change_description
from lookalike.storage.generations import model_folder, record_generation
from lookalike.storage.own_vectors import Own, described
from lookalike.storage.remote import fetched, push
from lookalike.system.files import delete_folder

TRIED = "tried"
"""The key in the description for the first id of each preprocessing. From that id on it is the one
that skipped what was skipped."""


def load_model(path: Path, generation: int) -> Model:
    """Load the model of a generation of the index at `path`. Raises `LookalikeError`."""
    folder = fetched(model_folder(path, generation), path)
    try:
        return Model.load(folder)
    except LookalikeError:
        # Another process may just have renamed it (`description.upgrade`).
        if (renamed := model_folder(path, generation)) == folder:
            raise
        return Model.load(renamed)


def describe_model(model: Model, full_model: str | None) -> dict[str, Any]:
    """Return the part of a description that has a model.

    `full_model` is the fingerprint of the model in full precision, where that is another.
    """
    full_model = full_model or model.fingerprint
    return {"model": model.about(), "full_model": full_model, TRIED: {model.preprocessing: 0}}


def new_description(
    source: Source, model: Model, full_model: str | None, own: Own | None
) -> dict[str, Any]:
    """Return the description of a new index.

    Versions of lookalike that know no archives, no vectors or columns of the user, or no
    preprocessings but their own refuse such an index by its format.
    """
    is_known = source.kind not in ("archive", "rows")
    is_usual = own is None and is_known and model.preprocessing == PREPROCESSING
    return {
        "format": FORMAT if is_usual else NEWEST_FORMAT,
        "source": asdict(source),
        **describe_model(model, full_model),
        **described(own),
    }


def begin_generation(path: Path, generation: int, model: Model, full_model: str | None) -> None:
    """Write a model into the index at `path`, for the generation that a commit then begins.

    It replaces the model of an upgrade that was killed before its commit.
    """
    folder = model_folder(path, generation)
    delete_folder(folder)
    model.save(folder)
    push(path, folder)
    part = describe_model(model, full_model)
    change_description(path, lambda about: record_generation(about, generation, part))


def check_same(model: Model, about: dict[str, Any], path: Path) -> None:
    """Raise `LookalikeError` unless a model is the one that the description of `path` names."""
    if model.fingerprint != about["fingerprint"] or model.width != about["width"]:
        raise LookalikeError(
            f"{path} was made with {about['backbone']} {about['weights']} "
            f"({about['width']} numbers, {about['preprocessing']}), not with {model.backbone} "
            f"{model.weights} ({model.width} numbers, {model.preprocessing}): give that one"
        )


def current_preprocessing(about: dict[str, Any]) -> str:
    """Return the preprocessing of a model as this version of lookalike decodes for it."""
    name = str(about["preprocessing"])
    with suppress(ValueError):  # no network that takes images
        return Preprocessing.parse(name).current().name
    return name


def is_older_preprocessing(about: dict[str, Any]) -> bool:
    """Tell whether images were decoded otherwise for the vectors of an index than they are now."""
    return bool(about["preprocessing"] != current_preprocessing(about))


def first_tried_id(description: dict[str, Any], about: dict[str, Any]) -> int | None:
    """Return the first id of the current preprocessing; None where no image had it yet."""
    now = current_preprocessing(about)
    found = description.get(TRIED, {}).get(now, 0 if about["preprocessing"] == now else None)
    return None if found is None else int(found)


def record_first_tried(description: dict[str, Any], first_id: int) -> None:
    """Record the first id of the current preprocessing in the description, unless it has one."""
    now = current_preprocessing(description["model"])
    description.setdefault(TRIED, {}).setdefault(now, first_id)
