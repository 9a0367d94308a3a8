"""A collection with planted duplicates, and how well pairs found in it agree with the truth.

Photos are bases. Of a share of them there are one to three duplicates, each changed in one way of
`lookalike.images.perturbations.CHANGES` or copied byte by byte. All lie in one flat folder under
names that do not tell. Bases are split into two halves: thresholds are chosen in the first, what
counts is the second. A half is a collection of its own, pairs across are not looked at.
"""

import hashlib
import io
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from lookalike.images.perturbations import CHANGES, variant

if TYPE_CHECKING:
    import pandas as pd

COPIED = "copied"
KINDS = (COPIED, *CHANGES)
BOTH = "both changed"  # a pair of two duplicates of one base
MOST = 3  # duplicates of one base
HALVES = ("tuning", "test")

# Stanford Cars holds duplicates of its own. Found by looking at the likeliest pairs, by embeddings,
# by thumbnails and by keypoints, among the 1,029 photos of the classes 99 to 122 (Ferrari to GMC).
# Whoever says that they are the same picture is neither right nor wrong here.
SAME = (
    ("01562.jpg", "05507.jpg"),
    ("02712.jpg", "04692.jpg", "02275.jpg"),  # the last mirrored, in another colour
    ("03497.jpg", "04559.jpg"),
    ("03707.jpg", "03741.jpg", "07909.jpg"),  # the second mirrored
    ("05010.jpg", "05078.jpg"),  # one scene, the roof open and closed
    ("01014.jpg", "03159.jpg"),  # from here on: one picture with the paint or body changed by hand
    ("02375.jpg", "04513.jpg"),
    ("02880.jpg", "05933.jpg", "07023.jpg"),
    ("03687.jpg", "05073.jpg"),
)


def plant(photos: list[Path], folder: Path, seed: int, share: float) -> "pd.DataFrame":
    """Write bases and duplicates into a new folder; return what each file is.

    Columns: `name`; `base`, the number of the photo it was made from; `kind`, one of `KINDS`,
    empty for a base; `half`, one of `HALVES`; `picture`, equal for bases that are one picture
    (`SAME`); `sha`, the SHA-256 of its content. Equal photos and seeds give equal files. In each
    half the kinds are as many, but for one.
    """
    import pandas as pd

    rng = random.Random(seed)
    order = rng.sample(range(len(photos)), len(photos))
    halves = (order[: len(order) // 2], order[len(order) // 2 :])
    half = {base: name for name, some in zip(HALVES, halves, strict=True) for base in some}
    wanted = [(base, "") for base in range(len(photos))]
    for some in halves:
        wanted += _dealt(some[: round(len(some) * share)], rng)
    first = {name: group[0] for group in SAME for name in group}
    numbers = rng.sample(range(10 * len(wanted)), len(wanted))
    folder.mkdir(parents=True)
    rows = []
    for number, (base, kind) in zip(numbers, wanted, strict=True):
        photo = photos[base]
        content = _content(photo, kind, base)
        name = f"{number:06d}{'.jpg' if kind in CHANGES else photo.suffix.lower()}"
        (folder / name).write_bytes(content)
        picture = first.get(photo.name, str(base))
        rows.append((name, base, kind, half[base], picture, hashlib.sha256(content).hexdigest()))
    columns = ["name", "base", "kind", "half", "picture", "sha"]
    return pd.DataFrame(rows, columns=columns).sort_values("name", ignore_index=True)


def _dealt(bases: list[int], rng: random.Random) -> list[tuple[int, str]]:
    """Give each base one to three kinds, those first that are the fewest so far."""
    used = dict.fromkeys(KINDS, 0)
    dealt = []
    for turn, base in enumerate(bases):
        for kind in sorted(KINDS, key=lambda kind: (used[kind], rng.random()))[: turn % MOST + 1]:
            used[kind] += 1
            dealt.append((base, kind))
    return dealt


def _content(photo: Path, kind: str, seed: int) -> bytes:
    """Return the bytes of a base or of a duplicate of it."""
    content = photo.read_bytes()
    if kind not in CHANGES:
        return content
    with Image.open(io.BytesIO(content)) as picture:
        return variant(ImageOps.exif_transpose(picture), kind, seed)


def true_pairs(files: "pd.DataFrame") -> "pd.DataFrame":
    """Return the pairs of each half that are duplicates: columns `half`, `kind`.

    The kind of a pair is that of its duplicate, or `BOTH` if it has two.
    """
    pairs = files.merge(files, on=["base", "half"], suffixes=("_a", "_b"))
    pairs = pairs[pairs.name_a < pairs.name_b]
    return pairs.assign(kind=_kinds(pairs))[["half", "kind"]]


def _kinds(pairs: "pd.DataFrame") -> "pd.Series[str]":
    """Return the kinds of pairs that have `kind_a` and `kind_b`."""
    either = pairs.kind_a + pairs.kind_b  # one of them is a base, whose kind is empty
    return either.where((pairs.kind_a == "") | (pairs.kind_b == ""), BOTH)


def judge(found: "pd.DataFrame", files: "pd.DataFrame") -> dict[str, Any]:
    """Say how well found pairs agree with the truth.

    `found` has the columns `a`, `b`, names of files in either order and as often as you like, and
    `score`, larger for what is more alike. The threshold is the score that has the largest F1 in
    the tuning half. `largest_group` is how many files the found pairs of the test half link into
    one, to be compared with `MOST` + 1.
    """
    judged, truth = _judged(found, files), true_pairs(files)
    tuning, test = (judged[judged.half == half] for half in HALVES)
    wanted = truth.half.value_counts()
    threshold = best_threshold(tuning, int(wanted["tuning"]))
    if threshold is None:
        return {"threshold": None, "found_pairs": len(judged)}
    above = test[test.score >= threshold]
    of_kind = truth[truth.half == "test"].kind.value_counts()
    recalled = above[above.right].kind.value_counts()
    return {
        "threshold": round(threshold, 5),
        **_figures(above, int(wanted["test"])),
        "recall_by_kind": {
            kind: round(float(recalled.get(kind, 0) / of_kind[kind]), 4)
            for kind in (*KINDS, BOTH)
            if kind in of_kind
        },
        "false_pairs": int((~above.right).sum()),
        "largest_group": _largest_group(above),
        "tuning": _figures(tuning[tuning.score >= threshold], int(wanted["tuning"])),
    }


def _judged(found: "pd.DataFrame", files: "pd.DataFrame") -> "pd.DataFrame":
    """Return each found pair once: columns `a`, `b`, `score`, `half`, `right`, `kind`.

    Pairs across the halves are left out, and those of different bases that are one picture.
    """
    swapped = found.a > found.b
    found = found.assign(a=found.a.where(~swapped, found.b), b=found.b.where(~swapped, found.a))
    found = found[found.a != found.b].groupby(["a", "b"], as_index=False).agg({"score": "max"})
    about = files.drop(columns="sha")
    pairs = found.merge(about.add_suffix("_a"), left_on="a", right_on="name_a").merge(
        about.add_suffix("_b"), left_on="b", right_on="name_b"
    )
    if len(pairs) != len(found):
        raise SystemExit("a tool names files that are not in the collection")
    right = pairs.base_a == pairs.base_b
    counts = (pairs.half_a == pairs.half_b) & (right | (pairs.picture_a != pairs.picture_b))
    pairs = pairs.assign(half=pairs.half_a, right=right, kind=_kinds(pairs))
    return pairs.loc[counts, ["a", "b", "score", "half", "right", "kind"]]


def best_threshold(pairs: "pd.DataFrame", wanted: int) -> float | None:
    """Return the score from which on the F1 of pairs is largest, None where no pair is right."""
    by_score = pairs.groupby("score").right.agg(["sum", "count"]).sort_index(ascending=False)
    right, taken = by_score["sum"].cumsum(), by_score["count"].cumsum()
    f1 = 2 * right / (taken + wanted)
    return float(f1.idxmax()) if right.any() else None


def _figures(taken: "pd.DataFrame", wanted: int) -> dict[str, float]:
    """Return precision, recall, their sum and their harmonic mean."""
    right = int(taken.right.sum())
    precision, recall = right / max(len(taken), 1), right / wanted
    return {
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "sum": round(precision + recall, 4),
        "f1": round(2 * right / (len(taken) + wanted), 4),
    }


def _largest_group(pairs: "pd.DataFrame") -> int:
    """Return how many files the largest group holds that pairs link."""
    import networkit
    import numpy as np
    import pandas as pd

    if pairs.empty:
        return 1
    ends, names = pd.factorize(pd.concat([pairs.a, pairs.b]))
    graph = networkit.GraphFromCoo(tuple(np.split(ends, 2)), n=len(names))
    groups = networkit.components.ConnectedComponents(graph).run()
    return int(max(groups.getComponentSizes().values()))
