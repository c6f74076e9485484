"""Curation of photographs whose answer is known: planted copies, a long tail, leaked test images.

    python benchmarks/curation.py --caltech=caltech101.tar --cifar=cifar10.tar \
        --singles=imagenet_samples.tar --out=runs/curation

Caltech-101 and CIFAR-10 (tar files, a directory per class) make a pool: all of the one but what is
held out, of the other 1000 / r images of the r-th class, all images of a third tar file as classes
of one, copies of 200 images in each of six ways, and 100 held-out ones in three. A small backbone
is trained on the pool. Thresholds are fitted to one half of the images and judged on the other.
Then the pool is curated, and models trained on what is left are compared with models trained on as
many random images of it, by kNN on what was held out. What is there is not done again; the last
line is JSON, also in ``OUT/result.json``.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

import dinojax
from dinojax.config.curation import CurationConfig, default_config, parse_config
from dinojax.curate import curate
from dinojax.curation.embeddings import Embeddings, RowsOptions, read_embeddings
from dinojax.curation.evenness import evenness
from dinojax.data.ids import read_ids
from dinojax.data.open import open_source
from dinojax.data.source import Source
from dinojax.evaluation.knn import knn_accuracy
from dinojax.precision import host_unit_rows

CONFIG = "configs/quickstart.py"
HELD, COPIED, LEAKED, TESTED = 12, 200, 100, 200
"""Images: held out of each class, planted with copies, held-out ones that are planted, and of each
class of CIFAR for kNN."""


def jpeg(image: Image.Image, quality: int = 95) -> Image.Image:
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=quality)
    return Image.open(stored)


def written_over(image: Image.Image) -> Image.Image:
    done = image.copy()
    size = max(8, image.height // 6)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(done).text((image.width // 10, image.height // 2), "copied", "white", font)
    return done


def cropped(image: Image.Image) -> Image.Image:
    left, top = image.width // 12, image.height // 10
    return image.crop((left, top, image.width - left // 2, image.height - top // 2))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed": lambda image: jpeg(image, 40),
    "resized": lambda image: image.resize((image.width // 2, image.height // 2)),
    "cropped": cropped,
    "flipped": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "recoloured": lambda image: ImageEnhance.Color(
        ImageEnhance.Brightness(image).enhance(1.25)
    ).enhance(0.4),
    "text": written_over,
}
EVALUATED = {"caltech": ("bank", "queries"), "cifar": ("cifar_bank", "cifar_queries")}
Planted = dict[str, dict[str, list[str]]]
"""Of copies and of leaks, which images of the pool come from which image."""
LEAKS = ("as it is", "recompressed", "cropped")


def encoded(source: Source, place: int) -> bytes:
    image = source[place].image
    assert isinstance(image, bytes)  # of a file
    return image


def draw(*words: Any) -> int:
    return int.from_bytes(hashlib.blake2b(repr(words).encode(), digest_size=8).digest(), "little")


def by_class(source: Source, name: str) -> dict[str, list[int]]:
    """Places of the records of each class, in a random order."""
    found = defaultdict(list)
    for place in range(len(source)):
        found[source.record_id(place).split("/")[0]].append(place)
    return {
        one: sorted(places, key=lambda place: draw(name, source.record_id(place)))
        for one, places in sorted(found.items())
    }


def write(folder: Path, group: str, name: str, image: Image.Image) -> str:
    """The id."""
    path = folder / group / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.convert("RGB").save(path, "JPEG", quality=95, subsampling=0)
    return f"{group}/{name}.jpg"


def make_pool(args: argparse.Namespace, out: Path) -> Planted:
    """Images in ``pool``, ``bank`` and ``queries``."""
    planted: Planted = {"copies": {}, "leaks": {}}
    rooms: list[tuple[str, str, Image.Image]] = []
    for name, path in (("caltech", args.caltech), ("cifar", args.cifar)):
        source = open_source(f"tar:{path}")
        for rank, (one, places) in enumerate(by_class(source, name).items(), 1):
            most = len(places) if name == "caltech" else HELD + 1000 // rank
            for number, place in enumerate(places[:most]):
                image = Image.open(io.BytesIO(encoded(source, place)))
                key, group = f"{name}_{number:04}", f"{name}.{one}"
                part = "pool" if number >= HELD else ("bank", "queries")[number % 2]
                write(out / part, group, key, image)
                if part != "bank":
                    rooms.append((part, f"{group}/{key}", image.convert("RGB")))
    singles = open_source(f"tar:{args.singles}")
    for number in range(len(singles)):
        image = Image.open(io.BytesIO(encoded(singles, number))).convert("RGB")
        group, key = f"single.{Path(singles.record_id(number)).stem}", f"single_{number:04}"
        write(out / "pool", group, key, image)
        rooms.append(("pool", f"{group}/{key}", image))
    for part, count, ways in (("pool", COPIED, tuple(COPIES)), ("queries", LEAKED, LEAKS)):
        named = [room for room in rooms if room[0] == part]
        for _, id, image in sorted(named, key=lambda room: draw("planted", room[1]))[:count]:
            group, key = id.split("/")
            copies = [
                write(
                    out / "pool",
                    group,
                    f"{key}_{way.replace(' ', '_')}",
                    COPIES.get(way, Image.Image.copy)(image),
                )
                for way in ways
            ]
            planted["copies" if part == "pool" else "leaks"][f"{id}.jpg"] = copies
    (out / "planted.json").write_text(json.dumps(planted))
    return planted


def make_tests(args: argparse.Namespace, out: Path) -> None:
    """``cifar_bank`` and ``cifar_queries``, of images that are in nothing else."""
    source = open_source(f"tar:{args.cifar}")
    for one, places in by_class(source, "cifar").items():
        for number, place in enumerate(places[-TESTED:]):
            part = ("cifar_bank", "cifar_queries")[number % 2]
            image = Image.open(io.BytesIO(encoded(source, place)))
            write(out / part, f"cifar.{one}", f"test_{number:04}", image)


def train(workdir: Path, steps: int, *flags: str) -> None:
    """Until it is done; a finished run ends at once."""
    command = [sys.executable, "-m", "dinojax.train", f"--config={CONFIG}", f"--workdir={workdir}"]
    values = (
        f"train.steps={steps}",
        f"optim.teacher_temp.warmup_steps={steps * 3 // 4}",
        "knn.every_steps=0",
        "data.holdout=0.001",
    )
    subprocess.run([*command, *(f"--config.{value}" for value in (*values, *flags))], check=True)


def embedded(out: Path, part: str, model: Path, name: str) -> Embeddings:
    folder = out / "features" / name / part
    dinojax.embed(f"folder:{out / part}", str(model), folder, image_px=64)
    return read_embeddings(RowsOptions(str(folder)), part)


def origins(found: Embeddings, planted: Planted) -> np.ndarray:
    """The image that each one was made of, or itself."""
    of = {copy: id for one in planted.values() for id, copies in one.items() for copy in copies}
    return np.asarray([of.get(id, id) for id in found.ids])


def threshold(cosines: np.ndarray, share: float) -> float:
    """That no more than `share` of the unrelated images exceed."""
    return round(float(np.quantile(cosines, 1 - share)) + 5e-4, 3)


def judged(
    found: Embeddings, planted: Planted, kind: str, other: Embeddings, share: float
) -> dict[str, Any]:
    """A threshold fitted to even images, and what it does with odd ones.

    By way of copying: recall, the share of copies that are found by what they were made of; and
    precision, the share of pairs of such a copy, each of a cosine above the threshold, that are of
    one origin. False alarms: the share of all images with a partner of another origin.
    """
    cosine = host_unit_rows(found.rows) @ host_unit_rows(other.rows).T
    alike = origins(found, planted)[:, None] == origins(other, planted)
    nearest = np.where(alike, -1, cosine).max(axis=1)
    even = np.arange(len(nearest)) % 2 == 0
    limit = threshold(nearest[even], share)
    at, at_other = ({id: i for i, id in enumerate(one.ids)} for one in (found, other))
    hits, right = defaultdict(list), defaultdict(list)
    for id, copies in sorted(planted[kind].items())[1::2]:
        for copy in copies:
            way = copy.rpartition("/")[2].removesuffix(".jpg").split("_", 2)[2]
            row = at[copy]
            hits[way].append(cosine[row, at_other[id]] > limit)
            partners = cosine[row] > limit
            if found is other:
                partners[row] = False  # itself
            right[way] += alike[row, partners].tolist()
    return {
        "threshold": limit,
        "recall": {way: float(np.mean(one)) for way, one in hits.items()},
        "precision": {way: float(np.mean(one)) if one else None for way, one in right.items()},
        "pairs": {way: len(one) for way, one in right.items()},
        "false_alarms": float((nearest[~even] > limit).mean()),
    }


def curated(out: Path, limits: dict[str, float], target: int) -> CurationConfig:
    given = default_config()
    features = out / "features" / "backbone"
    given.dedup.rows.folder = given.cluster.rows.folder = str(features / "pool")
    given.dedup.references = (str(features / "queries"), str(features / "bank"))
    given.dedup.threshold, given.dedup.reference_threshold = limits["copies"], limits["leaks"]
    given.cluster.rows.ids = str(out / "work" / "dedup" / "kept.parquet")
    given.cluster.clusters, given.cluster.rounds, given.cluster.kept = (600, 100), (0, 9), (1, 3)
    given.sample.target = target
    return parse_config(given)


def classes(ids: list[str]) -> dict[str, float]:
    """How even the classes are among these records."""
    names, counts = np.unique([id.split("/")[0] for id in ids], return_counts=True)
    return {"classes": len(names), **evenness(counts)._asdict()}


def knn(out: Path, model: Path, name: str) -> dict[str, float]:
    """Of held-out images of either set, the mean over classes, which have as many images each."""
    scores = {}
    for data, folders in EVALUATED.items():
        parts = []
        for folder in folders:
            found = embedded(out, folder, model, name)
            own = np.asarray([id.startswith(data) for id in found.ids])
            names = [id.split("/")[0] for id, is_own in zip(found.ids, own, strict=True) if is_own]
            parts += [host_unit_rows(found.rows[own]), np.unique(names, return_inverse=True)[1]]
        count = int(parts[1].max()) + 1
        scores[data] = knn_accuracy(*parts, k=5, temperature=0.07, num_classes=count)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--caltech", required=True)
    parser.add_argument("--cifar", required=True)
    parser.add_argument("--singles", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/curation"))
    parser.add_argument("--steps", type=int, default=2000, help="of the backbone")
    parser.add_argument("--small_steps", type=int, default=800, help="of the models compared")
    parser.add_argument("--target", type=int, default=2000, help="records of the subsets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.005, help="of false alarms")
    args = parser.parse_args()
    out: Path = args.out
    stored = out / "planted.json"
    planted = json.loads(stored.read_text()) if stored.exists() else make_pool(args, out)
    if not (out / "cifar_queries").exists():
        make_tests(args, out)
    train(out / "backbone", args.steps, f"data.source=folder:{out / 'pool'}")
    pool = embedded(out, "pool", out / "backbone", "backbone")
    queries = embedded(out, "queries", out / "backbone", "backbone")
    embedded(out, "bank", out / "backbone", "backbone")
    result: dict[str, Any] = {
        "pool": len(pool.ids),
        "copies": judged(pool, planted, "copies", pool, args.share),
        "leaks": judged(pool, planted, "leaks", queries, args.share),
        "backbone_knn": knn(out, out / "backbone", "backbone"),
    }
    print(json.dumps(result), flush=True)
    limits = {name: result[name]["threshold"] for name in ("copies", "leaks")}
    config = curated(out, limits, args.target)
    reports = {
        stage: curate(stage, config, out / "work") for stage in ("dedup", "cluster", "sample")
    }
    chosen = read_ids(str(out / "work" / "sample" / "selection.parquet"))
    kept = set(read_ids(str(out / "work" / "dedup" / "kept.parquet")))
    leaks = {copy for copies in planted["leaks"].values() for copy in copies}
    result |= {
        "dedup": {
            name: reports["dedup"][name]
            for name in ("rows_in", "rows_out", "removed", "components")
        },
        "leaks_left": len(leaks & kept) / len(leaks),
        "balance": {
            "pool": classes(pool.ids),
            "kept": classes(sorted(kept)),
            "curated": classes(chosen),
        },
        "knn": [],
    }
    for seed in range(args.seeds):
        order = sorted(pool.ids, key=lambda id: draw("random", seed, id))
        subsets = {"curated": chosen, "random": order[: len(chosen)]}
        scores = {}
        for name, ids in subsets.items():
            listed = out / f"{name}_{seed}.txt"
            listed.write_text("".join(f"{id}\n" for id in ids))
            run = out / f"{name}_{seed}"
            train(
                run,
                args.small_steps,
                f"data.source=folder:{out / 'pool'}",
                f"data.ids={listed}",
                f"train.seed={seed}",
            )
            scores[name] = knn(out, run, run.name)
        result["knn"].append(scores)
        print(json.dumps({"seed": seed, **scores}), flush=True)
    (out / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
