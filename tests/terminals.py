"""A terminal that remembers what it was sent."""

import io


class Terminal(io.StringIO):
    """For `contextlib.redirect_stderr`."""

    def isatty(self) -> bool:
        return True

    def bars(self) -> list[str]:
        """What stands in each line in the end, as ``embed: pool: 100%|###| 10/10 [...]``."""
        return [line.rsplit("\r")[-1].strip() for line in self.getvalue().split("\n") if line]
