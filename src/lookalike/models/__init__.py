"""Networks, their weights, and the engines that run them."""

from lookalike.models.engines import Engine, engine
from lookalike.models.model import PRECISIONS, Model, resolve

__all__ = ["PRECISIONS", "Engine", "Model", "engine", "resolve"]
