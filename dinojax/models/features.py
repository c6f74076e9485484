"""What goes into a backbone's pass over depth beside images, and what comes out of it."""

from typing import NamedTuple

from dinojax.kernels.rope import CoordinateDraws
from dinojax.models.block import KeptRows
from dinojax.typing import Array, Float


class Features(NamedTuple):
    """Backbone outputs of one crop size, after the final norm except `prenorm`."""

    cls: Float[Array, "G b D"]
    registers: Float[Array, "G b R D"]
    patches: Float[Array, "G b P D"]
    prenorm: Float[Array, "G b N D"]


class CropDraws(NamedTuple):
    """Random choices of one forward pass for one crop size; None means not applied."""

    coordinates: CoordinateDraws | None
    """RoPE augmentation, leaves ``[L, G, ..]``."""
    kept: KeptRows | None
    """Stochastic depth, leaves ``[L, G, m]``."""
    gains: Float[Array, "L G b"] | None = None
    """Stochastic depth of a ConvNeXt: factors of the residual branches."""
