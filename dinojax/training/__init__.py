"""What a training run does beside its steps: what it starts from, is bound to, and keeps."""
