"""Training: photos and labels in, the weights of a network out."""

from lookalike.extras import require

require("training", "torch")

from lookalike.training.held_out import HeldOut  # noqa: E402 - it imports PyTorch
from lookalike.training.job import Trained, fine_tune  # noqa: E402

__all__ = ["HeldOut", "Trained", "fine_tune"]
