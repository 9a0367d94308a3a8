"""Training: photos and labels in, the weights of a network out."""

from lookalike.models.training.fine_tuning import Trained, fine_tune
from lookalike.models.training.validation import HeldOut
from lookalike.system.extras import require

require("training", "torch")

__all__ = ["HeldOut", "Trained", "fine_tune"]
