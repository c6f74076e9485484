"""Images per second of the host's share of the input pipeline, and what the views cost the device.

    python benchmarks/input_pipeline.py --source=tar:images.tar

On one core, taking turns in one process: decoding alone (bytes in memory to pixels that fit the
canvas), the whole host path (source to batches of canvases, as in training) and the augmentation of
the DINOv3 reference, which does everything on the host (extra ``bench``; PyTorch and torchvision).
Rates are per second of processor time, which other processes on the machine disturb least.

The views are counted, not timed: operations of the program for one image as it is lowered for
TPUs, where each product of whole grey levels is two bfloat16 passes, each counted, and everything
else is float32. The share is of the model FLOPs of a training step of the IN-1k recipe.

The last line is one JSON object.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dinojax.build.flops import build_flops
from dinojax.config import default_config, parse_config
from dinojax.data.decode import make_scratch, read_image
from dinojax.data.open import open_source
from dinojax.data.order import Order
from dinojax.data.pipeline import StepBatches
from dinojax.data.subset import Subset
from dinojax.views.recipe import ViewRecipe
from dinojax.views.render import make_crops

RECORDS = 1_281_167
"""As in ImageNet-1k. The steps that are measured show the given images, each equally often."""

Seconds = tuple[float, float]
"""Of processor and of wall time."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="images, e.g. tar:images.tar")
    parser.add_argument("--canvas_px", type=int, default=512)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--images", type=int, default=100, help="per turn")
    parser.add_argument("--turns", type=int, default=7, help="of which medians are taken")
    return parser.parse_args()


def take_turns(tasks: dict[str, Callable[[], None]], turns: int) -> dict[str, Seconds]:
    """Median seconds of each task, all of them once per turn, after one turn to warm up."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in tasks}
    for turn in range(turns + 1):
        for name, task in tasks.items():
            cpu, wall = time.process_time(), time.perf_counter()
            task()
            if turn:
                seconds[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: (statistics.median(s[0] for s in taken), statistics.median(s[1] for s in taken))
        for name, taken in seconds.items()
    }


def host_tasks(source_spec: str, canvas_px: int, batch: int, images: int):
    """Decoding alone and the whole path, and the encoded images that they decode."""
    files = open_source(source_spec)
    # Grain's shuffle takes 0.4 ms per record of a source of 100, and 0.02 ms in one of this size.
    order = Order((RECORDS,), batch, seed=0)
    steps = range(max(images // batch, 1))
    drawn = np.concatenate([order.indices(step, range(batch)) for step in steps])
    shown = np.zeros(RECORDS, np.int64)
    shown[drawn] = np.arange(len(drawn)) % len(files)  # no luck in which images these steps show
    source = Subset(files, shown)
    batches = StepBatches(source, order, canvas_px=canvas_px, num_threads=1)
    records = [source[index] for step in steps for index in batches[step]["index"].tolist()]

    scratch = make_scratch(canvas_px)

    def decode() -> None:
        for record in records:
            read_image(record, canvas_px, scratch=scratch)

    def host() -> None:
        for step in steps:
            batches[step]

    return {"decode": decode, "host": host}, [record.image for record in records]


def reference_augmentation() -> Callable[[Image.Image], list]:
    """DINOv3's `DataAugmentationDINO` with its defaults, on PIL images: 2 x 224 and 8 x 96 px.

    Blur is applied at the odds that the reference really has, 0, 0.9 and 0.5.
    """
    torch, v2 = import_torchvision()
    torch.set_num_threads(1)
    recipe = ViewRecipe()

    def cut(size: int, scale: tuple[float, float]):
        bicubic = v2.InterpolationMode.BICUBIC
        crop = v2.RandomResizedCrop(size, scale=scale, interpolation=bicubic)
        return v2.Compose([crop, v2.RandomHorizontalFlip(0.5)])

    def distort(kind: int):
        brightness, contrast, saturation, hue = recipe.jitter_strengths
        jitter = v2.ColorJitter(brightness, contrast, saturation, hue)
        blur = v2.GaussianBlur(9, recipe.blur_sigma)
        return v2.Compose(
            [
                v2.RandomApply([jitter], p=recipe.jitter_probability),
                v2.RandomGrayscale(recipe.grey_probability),
                v2.RandomApply([blur], p=recipe.blur_probabilities[kind]),
                v2.RandomSolarize(128, p=recipe.solarize_probabilities[kind]),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(recipe.rgb_mean, recipe.rgb_std),
            ]
        )

    whole = cut(recipe.global_crops_size, recipe.global_crops_scale)
    local = cut(recipe.local_crops_size, recipe.local_crops_scale)
    chains = [distort(kind) for kind in range(3)]
    views = [(whole, chains[0]), (whole, chains[1])] + [
        (local, chains[2])
    ] * recipe.local_crops_number
    return lambda image: [chain(geometry(image)) for geometry, chain in views]


def import_torchvision():
    """(torch, torchvision.transforms.v2).

    Beside a CPU torch the compiled operators of the published torchvision do not load, and its
    import asks for their signatures; the transforms need none of them.
    """
    import torch

    try:
        from torchvision.transforms import v2  # pyright: ignore[reportMissingImports]
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision.library = library  # must stay alive
        from torchvision.transforms import v2  # pyright: ignore[reportMissingImports]
    return torch, v2


def views_flops(canvas_px: int) -> float:
    """Operations behind the views of one image, lowered for TPUs."""
    arguments = (
        jax.ShapeDtypeStruct((1, canvas_px, canvas_px, 3), jnp.uint8),
        jax.ShapeDtypeStruct((1, 2), jnp.int32),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
    )
    program = jax.jit(lambda batch: make_crops(batch[0], batch[1], batch[2], ViewRecipe())).trace(
        arguments
    )
    costs: Any = program.lower(lowering_platforms=("tpu",)).cost_analysis()
    return costs["flops"]


def step_flops(arch: str) -> float:
    """Model FLOPs of a training step per image."""
    config = default_config()
    config.student.arch = arch
    parsed = parse_config(config)
    return build_flops(parsed) / parsed.train.batch_size


def main() -> None:
    args = arguments()
    tasks, encoded = host_tasks(args.source, args.canvas_px, args.batch, args.images)
    augment = reference_augmentation()

    def torchvision() -> None:
        for data in encoded:
            assert isinstance(data, bytes)  # of a tar
            augment(Image.open(io.BytesIO(data)).convert("RGB"))

    seconds = take_turns({**tasks, "torchvision": torchvision}, args.turns)
    rates = {name: tuple(len(encoded) / s for s in both) for name, both in seconds.items()}
    for name, (per_core, per_wall) in rates.items():
        print(f"{name:>12}  {per_core:8.1f} images/s per core  {per_wall:8.1f} by the clock")
    views = views_flops(args.canvas_px)
    print(f"{'views':>12}  {views / 1e9:8.2f} GFLOP per image")
    result = {
        **vars(args),
        **{f"{name}_images_per_s_per_core": rate[0] for name, rate in rates.items()},
        **{f"{name}_images_per_s_wall": rate[1] for name, rate in rates.items()},
        "decode_share_of_host": seconds["decode"][0] / seconds["host"][0],
        "host_over_torchvision": rates["host"][0] / rates["torchvision"][0],
        "views_gflops_per_image": views / 1e9,
        "views_matmul_precision": "2 bfloat16 passes, float32 sums",
        "views_share_of_step_vits": views / step_flops("vits16"),
        "views_share_of_step_vitl": views / step_flops("vitl16"),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
