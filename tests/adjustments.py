"""Single operations of `color_jitter`: the factors of the others change nothing."""

import jax
import jax.numpy as jnp

from dinojax.typing import Array, Bool, Float
from dinojax.views import colour


@jax.jit
def adjust(
    image: Float[Array, "H W C"],
    operation: int | Array,
    factor: float | Array,
    content: Bool[Array, "H W 1"] | None = None,
) -> Float[Array, "H W C"]:
    factors = jnp.asarray(colour.IDENTITY, image.dtype).at[operation].set(factor)
    return colour.color_jitter(image, factors, jnp.arange(4), content=content)
