"""Self-supervised objectives as pure functions on arrays: one idea per file."""
