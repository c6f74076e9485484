"""Revisited Oxford and Paris (arXiv:1803.11285): instance retrieval by the cosine of CLS.

Command:  python -m dinojax.evaluate --config=configs/eval/oxford_paris.py --checkpoint=X --data=DIR
Variants: oxford_paris.py:oxford and oxford_paris.py:paris
Layout:   DIR/jpg/*.jpg and DIR/gnd_roxford5k.json or DIR/gnd_rparis6k.json, which the message tells
          how to make of the published .pkl; pickles are not read here
Cost:     one pass over 5 k or 6 k images

Queries are cut to their boxes. Published scores are of images of their own proportions; here the
whole image is resized to a square of 224 px, so expect others.
"""

from typing import Any

from dinojax.config.evaluation import default_config

TABLE = "arXiv:2304.07193, table 9"
MODELS = ("vits14", "vitb14", "vitl14", "vitg14")
SCORES = {
    "oxford": ((0.688, 0.432), (0.729, 0.495), (0.751, 0.540), (0.736, 0.523)),
    "paris": ((0.846, 0.685), (0.903, 0.786), (0.927, 0.835), (0.921, 0.826)),
}
"""(medium, hard) of `MODELS`."""
LAYOUTS = {"oxford": "roxford5k", "paris": "rparis6k"}


def get_config(place: str = "oxford") -> Any:
    if place not in LAYOUTS:
        raise ValueError(f"oxford_paris:{place} is unknown; use one of {tuple(LAYOUTS)}")
    config = default_config()
    config.tasks = ("retrieval",)
    config.images.image_px = 224
    config.images.fit = "whole"
    config.records.layout = LAYOUTS[place]
    config.records.max_train = config.records.max_test = 0
    config.published = tuple(
        (model, f"retrieval_map_{level}", value, TABLE)
        for model, values in zip(MODELS, SCORES[place], strict=True)
        for level, value in zip(("medium", "hard"), values, strict=True)
    )
    return config
