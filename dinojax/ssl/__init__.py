"""The method: one train step whose stages differ by the collaborators passed in."""
