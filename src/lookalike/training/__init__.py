"""To train: photos and labels in, the weights of a network out."""
