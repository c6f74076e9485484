"""Whether another library has a model for a backbone: settings that it must have."""

from collections.abc import Sequence
from typing import Any

from dinojax.models.presets import Backbone


def require(backbone: Backbone, library: str, **allowed: Sequence[Any]) -> None:
    """Fields of the backbone must have one of the given values.

    Raises:
        ValueError: one has another; names formats that hold every backbone.
    """
    for field, values in allowed.items():
        value = getattr(backbone, field)
        if value not in values:
            own = "dinov3" if getattr(backbone, "pos_embed_grid", None) is None else "dinov2"
            raise ValueError(
                f"{library} has no model with {field}={value!r}, only with "
                f"{' or '.join(map(repr, values))}; use --format={own}, safetensors or onnx"
            )
