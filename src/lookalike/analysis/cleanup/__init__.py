"""Set duplicates aside, and undo it."""
