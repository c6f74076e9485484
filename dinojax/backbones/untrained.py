"""Backbones that have learnt nothing: ``random:vits16``, ``random:vits16@3``, and ``pixels``."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dinojax.backbones.opened import IMAGE_PX, ImageFormat, Opened
from dinojax.models.pixels import Pixels
from dinojax.models.presets import Backbone, get_preset
from dinojax.precision import Precision
from dinojax.trees import flatten
from dinojax.typing import Params

RANDOM = "random:"
"""Before the name of a preset, and perhaps ``@SEED``."""
PIXELS = "pixels"


@dataclass(frozen=True)
class Untrained(Opened):
    """A preset as it is initialised: a function of the seed alone, on every mesh."""

    preset: str
    seed: int

    @property
    def arch(self) -> str:
        return self.preset

    def read(self, mesh: Mesh) -> Params:
        side = self.backbone.stride

        def init(key: jax.Array) -> Params:
            image = jnp.zeros((1, 1, side, side, self.images.channels))
            return dict(self.backbone.init(key, image)["params"])

        with jax.set_mesh(mesh):
            layout = jax.tree.map(lambda leaf: leaf.sharding, self.layout(mesh))
            return jax.jit(init, out_shardings=layout)(jax.random.key(self.seed))


@dataclass(frozen=True)
class RawPixels(Opened):
    """The images themselves."""

    def read(self, mesh: Mesh) -> Params:
        return {}


def initial_leaf(backbone: Backbone, channels: int) -> Callable[[str], np.ndarray]:
    """``path -> values`` of a backbone as it is initialised with seed 0; one leaf at a time."""
    side = backbone.stride

    def values(path: str) -> np.ndarray:
        def init(key: jax.Array) -> jax.Array:
            params = backbone.init(key, jnp.zeros((1, 1, side, side, channels)))["params"]
            return flatten(dict(params))[path]

        return np.asarray(jax.jit(init)(jax.random.key(0)))

    return values


def open_untrained(given: str, precision: Precision) -> Untrained:
    """``random:NAME`` or ``random:NAME@SEED``.

    Raises:
        ValueError: no such preset, or a seed that is no number.
    """
    preset, _, seed = given.removeprefix(RANDOM).partition("@")
    if seed and not seed.isdigit():
        raise ValueError(f"{given!r}: the seed {seed!r} is no number; use {RANDOM}{preset}@0")
    return Untrained(given, get_preset(preset).build(precision), preset, int(seed or 0))


def open_pixels(precision: Precision) -> RawPixels:
    """As float images in 0..1."""
    zeros_and_ones = ImageFormat((0.0,) * 3, (1.0,) * 3, IMAGE_PX)
    return RawPixels(PIXELS, Pixels(precision), images=zeros_and_ones)
