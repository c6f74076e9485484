"""A small curated pool with planted copies, and what stands on its page."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from images import encode, smooth, write_folder

from dinojax.config.curation import CurationConfig
from dinojax.curation.cluster_stage import ClusterOptions
from dinojax.curation.dedup_stage import DedupOptions
from dinojax.curation.embeddings import RowsOptions
from dinojax.curation.retrieve_stage import RetrieveOptions
from dinojax.curation.sample_stage import SampleOptions
from dinojax.curation_page.options import PageOptions
from dinojax.embedding.files import Rows, write_parquet

LARGE, SMALL = "<i>large</i> & co", "small"
"""Classes."""
NAMES = [f"{LARGE}/{n:02}.png" for n in range(24)] + [f"{SMALL}/{n:02}.png" for n in range(8)]
COPIED, COPY, SEEN, ALMOST = NAMES[0], f"{SMALL}/copy.png", NAMES[2], f"{SMALL}/almost.png"
FAR = f"{SMALL}/far copy.png"
"""`COPY` and `FAR` have 0.95 and 0.85 with `COPIED`; `ALMOST` has 0.75 with the second. The third
is `SEEN` in the evaluation, and nothing else is like anything."""
THRESHOLD = 0.8


def rows() -> dict[str, np.ndarray]:
    """Features by id. A class has a direction, and each of its images one more."""
    axes = np.eye(len(NAMES) + 8, dtype=np.float32)
    found = {
        name: axes[n] + 0.5 * axes[-1 if name.startswith(LARGE) else -2]
        for n, name in enumerate(NAMES)
    }
    for name, of, cosine, spare in (
        (COPY, COPIED, 0.95, 0),
        (FAR, COPIED, 0.85, 1),
        (ALMOST, NAMES[1], 0.75, 2),
    ):
        unit = found[of] / np.linalg.norm(found[of])
        found[name] = cosine * unit + np.sqrt(1 - cosine**2) * axes[len(NAMES) + spare]
    return found


def write_rows(folder: Path, found: dict[str, np.ndarray], classes: tuple[str, ...] = ()) -> str:
    """As `dinojax.embed` does; the folder."""
    folder.mkdir(parents=True)
    label = [next((i for i, c in enumerate(classes) if id.startswith(c)), -1) for id in found]
    part = Rows(list(found), np.array(label), {"cls": np.stack(list(found.values()))})
    write_parquet(folder / "a.parquet", [part])
    return str(folder)


def make_pool(root: Path) -> CurationConfig:
    """Images and features below `root`, and how to curate them."""
    pool = rows()
    tests = {"seen.png": pool[SEEN], "other.png": np.eye(len(pool[SEEN]), dtype=np.float32)[-3]}
    seeds = {"seed.png": pool[NAMES[5]] + 0.1, "more.png": pool[f"{SMALL}/03.png"] + 0.1}
    for name, ids in (("pool", pool), ("tests", tests), ("seeds", seeds)):
        files = {id: encode(smooth(24 + n, 32), "PNG") for n, id in enumerate(ids)}
        write_folder(root / name, files)
    features = root / "features"
    given = RowsOptions(write_rows(features / "pool", pool, (LARGE, SMALL)))
    return CurationConfig(
        dedup=DedupOptions(
            given,
            (write_rows(features / "tests", tests),),
            threshold=THRESHOLD,
            reference_threshold=0.9,
            neighbours=8,
        ),
        cluster=ClusterOptions(given, clusters=(6, 2), rounds=(0, 0), kept=(1, 1), iterations=3),
        sample=SampleOptions(target=12),
        retrieve=RetrieveOptions(
            RowsOptions(write_rows(features / "seeds", seeds)), rows=given, neighbours=2
        ),
        page=PageOptions(
            source=f"folder:{root}/pool",
            references=(f"folder:{root}/tests",),
            seeds=f"folder:{root}/seeds",
        ),
    )


@dataclass
class Seen:
    """A tile."""

    id: str = ""
    text: str = ""
    image: str = ""
    marked: bool = False


@dataclass
class Part:
    """Of a section: a sheet's title with its groups, each a title and its tiles."""

    section: str
    title: str = ""
    groups: list[tuple[str, list[Seen]]] = field(default_factory=list)


class Page(HTMLParser):
    """Titles, sheets and tables of a page; all text is as a reader sees it.

    Attributes:
        tables: lines of cells, by section.
        tags: how often each tag comes.
    """

    def __init__(self, text: str):
        super().__init__()
        self.sections: list[str] = []
        self.parts: list[Part] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: dict[str, int] = {}
        self.text = ""
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.tags[tag] = self.tags.get(tag, 0) + 1
        kind = given.get("class", "")
        if tag == "h2":
            self.sections.append("")
        elif tag == "h3":
            self.parts.append(Part(self.sections[-1]))
        elif kind == "group":
            self.parts[-1].groups.append(("", []))
        elif kind.startswith("tile") and tag == "figure":
            self._tiles.append(Seen(marked="marked" in kind))
        elif tag == "figcaption" and self._inside("tile"):
            self._tiles[-1].id = given["title"]
        elif tag == "img":
            self._tiles[-1].image = given["src"]
        elif tag == "tr":
            self.tables.setdefault(self.sections[-1], []).append([])
        elif tag in ("td", "th"):
            self.tables[self.sections[-1]][-1].append("")
        if tag not in ("img", "br", "meta", "link"):
            self._open.append((tag, kind))

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag, f"{tag} closes what is not open"

    def handle_data(self, data):
        tag = self._open[-1][0] if self._open else ""
        if tag == "style":
            return
        self.text += data
        if tag == "h2":
            self.sections[-1] += data
        elif tag == "h3":
            self.parts[-1].title += data
        elif tag == "h4":
            title, tiles = self.parts[-1].groups[-1]
            self.parts[-1].groups[-1] = (title + data, tiles)
        elif tag in ("td", "th"):
            self.tables[self.sections[-1]][-1][-1] += data
        elif self._inside("tile"):
            self._tiles[-1].text += data

    @property
    def _tiles(self) -> list[Seen]:
        return self.parts[-1].groups[-1][1]

    def _inside(self, kind: str) -> bool:
        return any(one.split(" ")[0] == kind for _, one in self._open)

    def sheet(self, section: str, title: str) -> Part:
        """The only one whose title starts so."""
        (found,) = [p for p in self.parts if p.section == section and p.title.startswith(title)]
        return found
