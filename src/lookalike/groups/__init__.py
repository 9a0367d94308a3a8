"""What belongs together in a collection, what is in it twice, what does not belong."""
