"""dinojax: self-supervised pretraining of DINOv2/DINOv3-class vision backbones in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinojax.api import embed as embed
    from dinojax.api import load as load

__version__ = "0.1.0"
__all__ = ["embed", "load"]


def __getattr__(name: str) -> Any:
    """`load` and `embed`, imported on first use: ``import dinojax`` alone stays instant."""
    if name not in __all__:
        raise AttributeError(f"module 'dinojax' has no attribute {name!r}")
    from dinojax import api

    return getattr(api, name)
