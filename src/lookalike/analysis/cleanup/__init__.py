"""Set images aside that others stand for, and bring them back."""
