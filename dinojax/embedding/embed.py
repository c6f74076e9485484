"""`dinojax.embed`: the features of a source, streamed into files of a folder."""

import contextlib
import difflib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from dinojax import mesh as meshes
from dinojax.backbones.model import Model
from dinojax.backbones.open import open_backbone
from dinojax.backbones.opened import Opened
from dinojax.data.check import fingerprint
from dinojax.data.open import open_source
from dinojax.data.pipeline import EvalBatch, sequential_batches
from dinojax.data.sizes import Measured
from dinojax.data.source import Source
from dinojax.data.subset import Subset
from dinojax.embedding.files import FORMATS, Rows
from dinojax.evaluation.features import centre_crops
from dinojax.runtime.agreement import agree, check_shared
from dinojax.runtime.atomic import replace_text
from dinojax.runtime.contract import changes
from dinojax.runtime.divided_files import await_all, own_missing
from dinojax.views.colour import WHITE

ABOUT = "_about.json"
"""Readers of a folder of Parquet files pass over names that begin so."""
KINDS = ("cls", "registers", "patches", "mean_patch")
"""What can be written; `mean_patch` is the mean of the patches."""
CANVAS_PX = 512
"""Smallest canvas that images are decoded to."""


def embed(
    source: str | Source,
    model: str | Model,
    out: str | os.PathLike[str],
    *,
    features: Sequence[str] = ("cls",),
    image_px: int | None = None,
    format: str = "parquet",
    batch_size: int = 64,
    shard: int = 4096,
    on_images: Callable[[int], object] = lambda count: None,
) -> list[Path]:
    """Write features of every record; what an earlier, killed call has written is not done again.

    Images are centre crops of the largest square, resized to `image_px`; what size they had is
    written, too. Of all records of a file those that cannot be read have no row, and are counted in
    the log.

    Of several processes (`jax.distributed.initialize`) all make the same call, with a folder that
    they share; each writes some of the files, on its own devices.

    Args:
        source: as ``data.source``, such as a folder, ``tar:/data/x.tar`` or ``scenes:1000``.
        model: from `dinojax.load`, or what that takes; of several processes the latter, or
            `own_model`.
        out: a folder, for this one set of features.
        features: of `KINDS`, after the final norm.
        image_px: None: the side that the model says. A multiple of its stride.
        format: of `FORMATS`: ``parquet`` or ``array_record``.
        batch_size: images at a time, and rows per group of a Parquet file.
        shard: records per file.
        on_images: told how many more this process has done, such as ``update`` of a bar.

    Returns:
        the files, in the order of the records.

    Raises:
        ValueError: options that do not fit, a folder with other features, or processes that differ.
        FileNotFoundError: no such model or source.
    """
    _check(features, format, batch_size)
    if isinstance(model, str):
        model = own_model(open_backbone(model))
    elif not model.is_local:
        raise ValueError(f"{model!r} lies on the devices of all processes; give its name alone")
    source = open_source(source) if isinstance(source, str) else source
    side = model.images.image_px if image_px is None else image_px
    folder = Path(out)
    files = shards(folder, len(source), shard, format)
    about = _about(model, source, features, side, format, shard)
    agree("embed", about)
    _claim(folder, about)
    check_shared(folder / ABOUT)
    paths, write = list(files), FORMATS[format][1]
    for number in own_missing(paths):
        path = paths[number]
        part = Subset(source, np.asarray(files[path]))
        write(path, _rows(model, part, features, side, batch_size, on_images))
        logging.info("embed: %s, %d of %d", path.name, number + 1, len(paths))
    await_all(paths)
    return paths


def shards(folder: Path, records: int, shard: int, format: str = "parquet") -> dict[Path, range]:
    """The files that `embed` writes, each with the places of its records.

    Raises:
        ValueError: `shard` is less than 1.
    """
    if shard < 1:
        raise ValueError(f"shard={shard} must be at least 1; use 4096")
    count, ending = -(-records // shard), FORMATS[format][0]
    return {
        folder / f"features-{number:05}-of-{count:05}{ending}": range(
            number * shard, min((number + 1) * shard, records)
        )
        for number in range(count)
    }


def own_model(opened: Opened) -> Model:
    """On the devices of this process alone. Raises: as `Opened.read`."""
    return Model.read(opened, meshes.make_mesh(1, -1, devices=jax.local_devices()))


def _rows(
    model: Model,
    source: Source,
    features: Sequence[str],
    side: int,
    batch_size: int,
    on_images: Callable[[int], object],
) -> Iterator[Rows]:
    """Of one batch after the other."""
    mean, std = (np.asarray(v, np.float32) for v in (model.images.mean, model.images.std))
    readable, source = 0, Measured(source)
    for first, batch in _batches(source, model, side, batch_size):
        valid = batch["valid"]
        crops = centre_crops(batch["canvas"], batch["size"], side)
        maps = model.features((crops / WHITE - mean) / std)
        found = {}
        for name in features:
            value = maps["patches"].mean((1, 2)) if name == "mean_patch" else maps[name]
            found[name] = np.asarray(value)[valid]
        places = first + np.flatnonzero(valid)
        ids = [source.record_id(int(place)) for place in places]
        yield Rows(ids, batch["label"][valid], found, source.sizes[places])
        readable += len(ids)
        on_images(min(batch_size, len(source) - first))
    if readable < len(source):
        text = "embed: %d of %d records are unreadable and have no row"
        logging.warning(text, len(source) - readable, len(source))


def _batches(
    source: Source, model: Model, side: int, batch_size: int
) -> Iterator[tuple[int, EvalBatch]]:
    """Each with the place of its first record."""
    canvas_px, channels = max(side, CANVAS_PX), model.images.channels
    batches = sequential_batches(source, batch_size, canvas_px, channels=channels)
    with contextlib.closing(batches):
        for step, batch in enumerate(batches):
            yield step * batch_size, batch


def _about(
    model: Model, source: Source, features: Sequence[str], side: int, format: str, shard: int
) -> dict[str, Any]:
    shapes = model.shapes(side, side)
    shapes["mean_patch"] = shapes["patches"][-1:]
    for name in features:
        if 0 in shapes[name]:
            raise ValueError(
                f"features={tuple(features)}: {model.name} has no {name}; leave it out"
            )
    precision = model.backbone.precision
    return {
        "backbone": model.fingerprint,
        "compute": jnp.dtype(precision.compute).name,
        "rope": jnp.dtype(precision.rope).name,
        "records": fingerprint(source).digest,
        "class_names": source.class_names,
        "image_px": side,
        "rgb_mean": list(model.images.mean),
        "rgb_std": list(model.images.std),
        "format": format,
        "shard": shard,
        "shapes": {name: list(shapes[name]) for name in features},
    }


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Make the folder that of these features, or check that it is."""
    path = folder / ABOUT
    if path.exists():
        different = changes(json.loads(path.read_text(encoding="utf-8")), about)
        if different:
            raise ValueError(
                f"{folder} holds other features: {'; '.join(different)}; give another folder"
            )
    elif jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(about, indent=2) + "\n")


def _check(features: Sequence[str], format: str, batch_size: int) -> None:
    for name in features:
        if name not in KINDS:
            near = difflib.get_close_matches(name, KINDS, n=1) or KINDS
            raise ValueError(f"features={tuple(features)}: {name!r} is unknown; use {near[0]!r}")
    if not features:
        raise ValueError(f"features is empty; give some of {KINDS}")
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is unknown; use one of {', '.join(FORMATS)}")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1; use 64")
