"""Training: photos and labels in, the weights of a network out."""

from lookalike.training.held_out import HeldOut
from lookalike.training.job import Trained, fine_tune

__all__ = ["HeldOut", "Trained", "fine_tune"]
