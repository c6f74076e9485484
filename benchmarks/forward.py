"""Frozen features of any preset: images per second of a forward pass, beside a PyTorch model's.

    python benchmarks/forward.py --preset=vitl16 --image_px=224 --batch=64 --dtype=bfloat16 \
        --peer=timm --compile

A table on stderr, one JSON line per case on stdout. Images lie on the device, features stay there.
The peer is the model of `transformers` or `timm` that our exports of this backbone are for, with
PyTorch's fused attention, autocast and random weights. Needs the extra `parity`.
"""

import argparse
import os
from typing import Any

import jax
import jax.numpy as jnp
import measure
from floor import Work, device_name, measured_floor, seconds_of, size_of

from dinojax.api import Model, load
from dinojax.export.hf_config import hf_config
from dinojax.export.timm_model import timm_model
from dinojax.models.flops import backbone_flops


def torch_model(library: str, model: Model) -> Any:
    """The same backbone there, as it is initialised."""
    backbone: Any = model.backbone
    if library == "timm":
        import timm

        name, options = timm_model(backbone, model.images)
        return timm.create_model(name, **options)
    import transformers

    config = hf_config(backbone, model.images)
    return transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(**config), attn_implementation="sdpa"
    )


def peer_seconds(args: argparse.Namespace, model: Model) -> float:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer = torch_model(args.peer, model).to(device).eval()
    if args.compile:
        peer.compile()
    images = torch.randn(args.batch, 3, args.image_px, args.image_px, device=device)

    @torch.inference_mode()
    def call():
        with torch.autocast(device, torch.bfloat16, enabled=args.dtype == "bfloat16"):
            return peer(images)

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    return measure.seconds_per_call(call, lambda _: wait())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="vits16")
    parser.add_argument("--image_px", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--peer", choices=["transformers", "timm"])
    parser.add_argument("--compile", action="store_true", help="compile the peer")
    args = parser.parse_args()
    # Read when the device is first used: PyTorch needs some of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    model = load(f"random:{args.preset}", precision=args.dtype)
    backbone: Any = model.backbone
    size = (args.batch, args.image_px, args.image_px, model.images.channels)
    images = jax.random.normal(jax.random.key(0), size, jnp.float32)
    floor = measured_floor(args.dtype)
    seconds = seconds_of(lambda: model.features(images))
    flops = args.batch * backbone_flops(backbone, args.image_px)
    moved = size_of((model.params, images, model.features(images)))
    figures = floor.figures(Work(flops, moved), seconds)
    row = {
        **vars(args),
        "backend": jax.default_backend(),
        "device": device_name(),
        "images_per_s": args.batch / seconds,
        **figures,
    }
    if args.peer:
        theirs = peer_seconds(args, model)
        row |= {"peer_ms": theirs * 1e3, "peer_images_per_s": args.batch / theirs}
        row["speed_over_peer"] = theirs / seconds
    columns = ("preset", "image_px", "batch", "dtype", "ms", "images_per_s", "floor_ms")
    peers = ("share_of_floor", "peer", "peer_images_per_s", "speed_over_peer")
    measure.Cases(*columns, *peers).add(row)


if __name__ == "__main__":
    main()
