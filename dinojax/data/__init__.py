"""Records in, uint8 canvases out, on the host: NumPy, Grain and image codecs, nothing jitted."""
