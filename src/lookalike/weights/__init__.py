"""The weights that come with the package; `README.md` beside them is their model card."""

from pathlib import Path

CARS = Path(__file__).with_name("resnet18-cars.safetensors")
