"""The stage ``page``: what the other stages did, in ``page/index.html``, one file.

Counts, thresholds and balance are those of their reports, groups come from their tables, and of
images only those that are shown are read. The same inputs give the same bytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinojax.curation.dedup_stage import DedupOptions
from dinojax.curation.progress_bar import progress_bar, tracked
from dinojax.curation.retrieve_stage import RetrieveOptions
from dinojax.curation.stage_folder import read_report
from dinojax.curation_page.cluster_section import cluster_section
from dinojax.curation_page.dedup_section import dedup_section
from dinojax.curation_page.options import PageOptions, check
from dinojax.curation_page.overview import details, finished, overview
from dinojax.curation_page.retrieve_section import retrieve_section
from dinojax.curation_page.sample_section import sample_section
from dinojax.curation_page.sections import Section, Sheet, as_html, wanted
from dinojax.data.open import open_source
from dinojax.data.source import Source
from dinojax.pictures import bars
from dinojax.pictures.page import page
from dinojax.pictures.thumbnails import ABSENT, Thumbnail, read_thumbnails, style
from dinojax.runtime.atomic import replace_text

FILE = "index.html"


def page_stage(
    options: PageOptions, dedup: DedupOptions, retrieve: RetrieveOptions, workdir: Path
) -> dict[str, Any]:
    """Where the page is, and counts. It is written anew each time.

    Args:
        dedup: where features are, for cosines; with `retrieve`.
        workdir: whose stages are shown, as far as they are finished.

    Raises:
        FileNotFoundError: no stage is finished, or no such source.
        ValueError: options outside their range, tables or features that are not those of the
            stages, or a source that lacks records of the pool.
    """
    check(options)
    reports = finished(workdir)
    sources = _open(options)
    names = sources["pool"][0].class_names or []

    def parts(name: str, report: dict[str, Any]) -> list[str | Sheet]:
        folder = workdir / name
        match name:
            case "dedup":
                return dedup_section(folder, read_report(folder), options, dedup)
            case "cluster":
                return cluster_section(folder, read_report(folder), options, names)
            case "sample":
                found = read_report(folder)
                return sample_section(folder, found, options, names, workdir / "cluster")
            case retrieve.stage:
                return retrieve_section(folder, read_report(folder), options, retrieve)
        return []  # of stages without pictures there is the report alone

    with progress_bar("page: sections", len(reports), "sections") as bar:
        sections = [
            Section(name, [*parts(name, report), details(report)])
            for name, report in tracked(reports.items(), bar)
        ]
    ids, found = wanted(sections), {}
    with progress_bar("page: images", sum(map(len, ids.values())), "images") as bar:
        for of, some in ids.items():
            read = read_thumbnails(sources[of], some, options.tile_px, options.channels)
            found[of] = dict(tracked(read, bar))
    _check_found(found, options)
    drawn = [overview(reports), *(as_html(one, found) for one in sections)]
    title = f"Curation {workdir.resolve().name}"
    text = page(title, (), drawn, bars.STYLE + style(options.tile_px))
    path = workdir / "page" / FILE
    path.parent.mkdir(exist_ok=True)
    replace_text(path, text)
    shown = [one for some in found.values() for one in some.values()]
    return {
        "page": str(path),
        "bytes": len(text.encode()),
        "stages": list(reports),
        "images": len(shown),
        "without_picture": sum(one.jpeg is None for one in shown),
    }


def _open(options: PageOptions) -> dict[str, list[Source]]:
    """By `Tile.of`."""
    given = {
        "pool": (options.source,),
        "references": options.references,
        "seeds": (options.seeds,),
    }
    return {of: [open_source(one) for one in some if one] for of, some in given.items()}


def _check_found(found: Mapping[str, Mapping[str, Thumbnail]], options: PageOptions) -> None:
    """That the sources are those of the stages."""
    keys = {"pool": "source", "references": "references", "seeds": "seeds"}
    for of, some in found.items():
        absent = [id for id, one in some.items() if one.cause == ABSENT]
        if absent:
            given = getattr(options, keys[of])
            raise ValueError(
                f"page.{keys[of]}={given} has no record {absent[0]!r}, and lacks {len(absent)} of "
                f"the {len(some)} that are shown; give the source whose features the stages have "
                "read"
            )
