"""Make `efficientnet-lite0.safetensors` from the packages of `lookalike[lite0]` and from photos.

    python recipes/lite0.py --photos imagenette cars_train --exchanged cars_train --out work

folds the batch normalisations into the convolutions and leaves the last layer out. What follows
instead is a projection to fewer numbers, fitted on up to `PHOTOS` photos of each folder: principal
components of the square roots of the features, each divided by the root of its deviation. It knows
no labels. README.md beside this file says what else was tried.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import fuse_conv_bn_weights

from judge import in_a_line, readable
from lookalike.images import locate, walk
from lookalike.models.efficientnet_lite0_ir import SHIFT, WIDTH, lite0
from lookalike.models.networks import backbone
from lookalike.models.runtimes import OpenVinoEngine
from lookalike.system.arrays import Vectors

FILE = "efficientnet-lite0.safetensors"
PHOTOS = 2500  # of a folder, so that none has the say alone
BATCH = 16
# What a convolution of each block is called here, and in the package with its normalisation.
PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
Tensors = dict[str, torch.Tensor]


def folded(network: nn.Module) -> Tensors:
    """Return kernels and biases, float32, of a Lite0 as `backbone` makes it."""
    convolutions = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    convolutions |= {
        f"blocks.{number}.{part}": (f"_blocks.{number}.{name}", f"_blocks.{number}.{norm}")
        for number, block in enumerate(network.get_submodule("_blocks").children())
        for part, (name, norm) in PARTS.items()
        if hasattr(block, name)
    }
    tensors: dict[str, torch.Tensor] = {}
    for part, (name, norm) in convolutions.items():
        normalisation = network.get_submodule(norm)
        assert isinstance(normalisation, nn.BatchNorm2d)
        mean, variance = normalisation.running_mean, normalisation.running_var
        assert mean is not None and variance is not None
        kernel, bias = fuse_conv_bn_weights(
            network.get_parameter(f"{name}.weight"),
            None,
            mean,
            variance,
            normalisation.eps,
            normalisation.weight,
            normalisation.bias,
        )
        tensors |= {f"{part}.weight": kernel.detach(), f"{part}.bias": bias.detach()}
    return tensors


def projection(features: Vectors, width: int = WIDTH) -> Tensors:
    """Return weight (width, f) and bias (width,) for features, float32 (n, f).

    What they make of the square roots of these features has mean 0 and deviation 1 in all, and no
    two numbers of it vary together.
    """
    rooted = np.sqrt(np.maximum(features, 0) + SHIFT)
    mean = rooted.mean(0)
    spread, directions = np.linalg.eigh(np.cov(rooted - mean, rowvar=False, dtype=np.float64))
    strongest = np.argsort(-spread)[:width]
    weight = (directions[:, strongest] / spread[strongest] ** 0.25).T
    weight /= ((rooted - mean) @ weight.T).std()
    tensors = {"weight": weight, "bias": -weight @ mean}
    return {name: torch.from_numpy(part).float() for name, part in tensors.items()}


def features_of(network: Tensors, folder: Path, exchanged: bool) -> Vectors:
    """Return the features, float32 (n, 1280), of photos of a folder, drawn at random."""
    source = locate(folder)
    paths = [found.path for found in walk(source)]
    drawn = np.random.default_rng(0).choice(len(paths), min(PHOTOS, len(paths)), replace=False)
    pixels: list[npt.NDArray[np.uint8]] = readable(source, [paths[at] for at in sorted(drawn)])
    with tempfile.TemporaryDirectory() as work:
        save_file(network, Path(work, FILE))
        run = OpenVinoEngine(*lite0(Path(work, FILE), projected=False), "f32", 0, 1)
    parts = [np.stack(pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH)]
    if exchanged:
        parts = [np.ascontiguousarray(part[..., ::-1]) for part in parts]
    return np.concatenate([run(part) for part in parts])


def stored(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as it is stored: in half precision where its rounding errors average out.

    The kernels of single channels and the biases are a twentieth of the file, and what they lose
    is most of what all lose.
    """
    single = tensor.ndim == 1 or (tensor.ndim == 4 and tensor.shape[1] == 1)
    return (tensor.float() if single else tensor.half()).contiguous()


@in_a_line()
def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--exchanged", type=Path, nargs="*", default=[], help="of these folders")
    parser.add_argument("--out", type=Path, default=Path("recipes/work"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    tensors = folded(backbone("efficientnet-lite0", "imagenet"))
    features = [features_of(tensors, each, each in given.exchanged) for each in given.photos]
    fitted = projection(np.concatenate(features))
    tensors |= {f"projection.{name}": part for name, part in fitted.items()}
    save_file({name: stored(part) for name, part in tensors.items()}, given.out / FILE)


if __name__ == "__main__":
    main()
