"""The options of the stage ``page``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PageOptions:
    """What is shown, and how much."""

    source: str | None = None
    """The pool's images, as data.source."""
    references: tuple[str, ...] = ()
    """The images of dedup.references. Without them, what is like them is shown alone."""
    seeds: str | None = None
    """The images of retrieve.seeds. None: what seeds asked for is shown without them."""
    groups: int = 12
    """Shown of each kind: groups of copies, pairs near a threshold, seeds."""
    clusters: int = 3
    """Shown of each level: the largest, the smallest and some others, so many of each."""
    tiles: int = 8
    """Images of a group or a cluster."""
    tile_px: int = 112
    """Side of a tile."""
    channels: int = 3
    """Of the images; of other than 3 the first is shown."""

    @property
    def images(self) -> int:
        """Of a sheet that is no group."""
        return 3 * self.tiles


def check(options: PageOptions) -> None:
    """
    Raises:
        ValueError: a number outside its range, or no source.
    """
    if options.source is None:
        raise ValueError(
            "page.source=None has no images; give the source that was embedded, such as "
            "folder:data/pool"
        )
    for name, least, most in (
        ("groups", 1, 100),
        ("clusters", 1, 100),
        ("tiles", 2, 100),
        ("tile_px", 16, 512),
        ("channels", 1, 1024),
    ):
        value = getattr(options, name)
        if not least <= value <= most:
            default = getattr(PageOptions, name)
            raise ValueError(f"page.{name}={value} must lie in {least}..{most}; use {default}")
