"""Published datasets as their authors lay them out on disk: one module each, one table."""
