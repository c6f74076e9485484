"""What a run needs before it starts: memory, communication, time, and the mesh that fits."""
