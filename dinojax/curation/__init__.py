"""From a pile of images to a balanced pretraining set, by their features."""
