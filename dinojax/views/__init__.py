"""From uint8 canvases to normalised crops and patch masks: pure functions, one image at a time."""
