"""Training: photos and labels in, the weights of a network out."""

from lookalike.system.extras import require

require("training", "torch")

from lookalike.models.training.fine_tuning import Trained, fine_tune  # noqa: E402 - imports PyTorch
from lookalike.models.training.validation import HeldOut  # noqa: E402

__all__ = ["HeldOut", "Trained", "fine_tune"]
