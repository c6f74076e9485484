"""What ``retrieve`` took: for which seeds, and what most often."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dinojax.curation.draws import draw_keys
from dinojax.curation.embeddings import numbers_of
from dinojax.curation.retrieve_stage import RetrieveOptions
from dinojax.curation.search import by_mesh, gathered
from dinojax.curation.stage_folder import SELECTION
from dinojax.curation_page.features import rows_of, some_rows, there
from dinojax.curation_page.options import PageOptions
from dinojax.curation_page.sections import Group, Sheet, times_words
from dinojax.pictures.thumbnails import Tile

SEED = "seed"
"""Mark of a tile."""
SEEDS, SEARCHED = 2**17, 2**17
"""Seeds that are drawn from, and records taken beyond which neighbours are not sought again."""


def retrieve_section(
    folder: Path, report: dict[str, Any], options: PageOptions, retrieve: RetrieveOptions
) -> list[str | Sheet]:
    """Of the finished stage in `folder`.

    Args:
        retrieve: where its features are.

    Raises:
        ValueError: features that are not those that the stage has read.
    """
    selection = pq.read_table(folder / SELECTION)
    ids, times = selection["id"].to_pylist(), selection["multiplicity"].to_numpy()
    often, inputs = _often(ids, times, options.images), report["inputs"]
    cheap = inputs["by"] == "neighbours" and 0 < len(ids) <= SEARCHED
    if cheap and options.seeds and there([retrieve.seeds]) and there([retrieve.rows]):
        return [_of_seeds(ids, inputs["neighbours"], options, retrieve), often]
    return [often]


def _of_seeds(
    ids: Sequence[str], neighbours: int, options: PageOptions, retrieve: RetrieveOptions
) -> Sheet:
    """Whatever is among a seed's nearest of the pool was taken: it is its nearest of these."""
    seeds = some_rows([retrieve.seeds], SEEDS, "retrieve.seeds")
    chosen = np.argsort(draw_keys(numbers_of(seeds.ids), 0, "page"))[: options.groups]
    taken = rows_of([retrieve.rows], ids, "retrieve.rows")
    bank = np.stack([taken[id] for id in ids])
    shown = min(neighbours, options.tiles - 1)
    found = gathered(by_mesh(bank, seeds.rows[chosen], shown))
    groups = []
    cosines, places = np.asarray(found.similarity), np.asarray(found.index)
    for number, seed in enumerate(map(int, chosen)):
        near = zip(map(int, places[number]), map(float, cosines[number]), strict=True)
        tiles = [Tile(ids[place], f"cosine {cosine:.3f}") for place, cosine in near]
        groups.append(Group("", [Tile(seeds.ids[seed], of="seeds", mark=SEED), *tiles]))
    fact = f"Some seeds with the nearest records of the pool, {shown} of {neighbours}."
    return Sheet("Asked for by seeds", fact, groups)


def _often(ids: Sequence[str], times: np.ndarray, images: int) -> Sheet:
    order = np.lexsort((draw_keys(numbers_of(ids), 0, "page"), -times))[:images]
    tiles = [Tile(ids[place], times_words(int(times[place]))) for place in map(int, order)]
    fact = "How many seeds asked for it; of equally many, by a draw."
    return Sheet("Taken, most often first", fact, [Group("", tiles)] if tiles else [])
