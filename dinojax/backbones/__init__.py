"""Every backbone that can be opened, from where it lies to its parameters on a mesh."""
