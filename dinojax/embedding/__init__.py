"""Features of whole sources in files that other tools read."""
