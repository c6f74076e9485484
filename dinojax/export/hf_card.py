"""The model card of a Hugging Face folder: what the weights are, where from, under which terms."""

from collections.abc import Mapping

from dinojax.backbones.opened import ImageFormat
from dinojax.export.hf_config import hf_config, hf_differences
from dinojax.models.convnext import ConvNeXt
from dinojax.models.presets import Backbone

NOTICE = "licence_notice"
_ROWS = (
    *("arch", "student", "part", "step", "data_fingerprint", "checkpoint_fingerprint"),
    "dinojax",
)
"""Of the metadata, what the card shows; the rest is in the header of the weights."""
_USE = """```python
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained(FOLDER)
model = AutoModel.from_pretrained(FOLDER).eval()
with torch.no_grad():
    found = model(**processor(images=Image.open(FILE), return_tensors="pt"))
cls = found.last_hidden_state[:, 0]
patches = found.last_hidden_state[:, {start}:]
```"""


def model_card(backbone: Backbone, images: ImageFormat, metadata: Mapping[str, str]) -> str:
    """The contents of ``README.md``."""
    kind = hf_config(backbone, images)["architectures"][0]
    start = 1 if isinstance(backbone, ConvNeXt) else 1 + backbone.n_storage_tokens
    rows = [f"| {key} | `{metadata[key]}` |" for key in _ROWS if key in metadata]
    licence = metadata.get("licence")
    front = ["library_name: transformers", "pipeline_tag: image-feature-extraction"]
    front += [f"license: {_hub_licence(licence)}"] if licence else []
    parts = [
        "\n".join(["---", *front, "---"]),
        f"# {metadata.get('arch', kind)}, trained with dinojax",
        f"A `{kind}` of `transformers`: features after the final norm, CLS first"
        + (f", then {start - 1} registers" if start > 1 else "")
        + ", then patches row by row.",
        _USE.format(start=start),
        *hf_differences(backbone),
        "## Where it comes from",
        "\n".join(["| | |", "|---|---|", *rows]),
        "The header of `model.safetensors` has the whole recipe.",
        "## Licence",
        metadata.get(NOTICE, "Nothing is known of the terms of these weights."),
    ]
    return "\n\n".join(parts) + "\n"


def _hub_licence(licence: str) -> str:
    """In the words of the hub's front matter."""
    return "apache-2.0" if licence == "Apache-2.0" else "other"
