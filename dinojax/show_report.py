"""``python -m dinojax.show report --workdir=RUN``: a run on one page, which is one file."""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinojax.backbones.model import Model
from dinojax.backbones.run import open_trained
from dinojax.build.panels import figures
from dinojax.config import default_config, parse_config, to_dict
from dinojax.evaluate import FILE as SCORES_FILE
from dinojax.pictures import panels
from dinojax.pictures.curves import STYLE, charts, curves_of
from dinojax.pictures.figure import as_html
from dinojax.pictures.page import page, table
from dinojax.runtime.contract import flatten, read_contract
from dinojax.runtime.metrics import FILE as METRICS_FILE
from dinojax.runtime.summary import FILE as SUMMARY_FILE
from dinojax.show_features import earlier_ones, read_images
from dinojax.stages.declare import recipe as read_recipe

FIRST = ("total_loss", "knn", "knn_pixels")
"""Curves that come before the others, which are sorted by name."""
CONSTANT = "These did not change: "


def make_report(
    workdir: str,
    *,
    data: Sequence[str],
    images: int,
    image_px: int | None,
    recipe: str | None,
) -> str:
    """The page.

    Args:
        data: images for the panels; none: as for the other pictures.
        recipe: FILE or FILE:VARIANT that the configuration is compared with. None: the defaults.

    Raises:
        FileNotFoundError: no run there, or no such recipe or images.
        ValueError: a damaged run, or a size that the model does not take.
        dinojax.runtime.errors.CheckpointError: a damaged checkpoint.
    """
    contract = read_contract(workdir)
    versions = contract["versions"]
    facts = [
        f"configuration {contract.get('config_hash', 'unknown')}, "
        f"records {contract['data_fingerprint'].get('records', 'unknown')}",
        ", ".join(f"{name} {versions[name]}" for name in ("dinojax", "jax") if name in versions),
    ]
    sections = [
        _section("Outcome", _outcome(workdir)),
        _section("Scores", _scores(workdir)),
        _section("Curves", _curves(workdir)),
        *_panels(workdir, data, images, image_px),
        _section("Configuration", _differences(contract["config"], recipe)),
    ]
    title = f"Run {Path(workdir).resolve().name}"
    return page(title, facts, [one for one in sections if one], STYLE)


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def _outcome(workdir: str) -> str:
    path = Path(workdir) / SUMMARY_FILE
    if not path.exists():
        return "<p>The run has not finished.</p>"
    summary = json.loads(path.read_text(encoding="utf-8"))
    rows = [[name, _number(value)] for name, value in summary.items() if value is not None]
    return table(("", ""), rows, numbers=(1,))


def _scores(workdir: str) -> str:
    path = Path(workdir) / SCORES_FILE
    if not path.exists():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        [
            str(one["task"]),
            str(one["metric"]),
            _number(one["value"]),
            "" if one.get("spread") is None else _number(one["spread"]),
            str(one["protocol_hash"]),
        ]
        for one in found["scores"]
    ]
    head = ("task", "metric", "value", "spread", "protocol")
    words = (f"{digest}: {json.dumps(one)}" for digest, one in found["protocols"].items())
    protocols = "".join(f"<p class='fact'><code>{html.escape(text)}</code></p>" for text in words)
    return table(head, rows, numbers=(2, 3)) + protocols


def _curves(workdir: str) -> str:
    path = Path(workdir) / METRICS_FILE
    if not path.exists():
        return "<p>The run has logged nothing.</p>"
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if text.endswith("\n"):  # the last one of a running run may be half written
            lines.append(json.loads(text))
    curves = curves_of(lines)
    order = [name for name in FIRST if name in curves] + sorted(curves.keys() - set(FIRST))
    constant = [n for n in order if len({value for _, value in curves[n]}) == 1 and n not in FIRST]
    moving = {name: curves[name] for name in order if name not in constant}
    still = ", ".join(f"{name} = {curves[name][0][1]:.6g}" for name in constant)
    note = f'<p class="fact">{html.escape(CONSTANT + still)}.</p>' if constant else ""
    return charts(moving) + note


def _panels(workdir: str, data: Sequence[str], images: int, image_px: int | None) -> list[str]:
    """Of the newest checkpoint; colours also of the earlier ones."""
    newest = open_trained(workdir)
    model = Model.read(newest)
    side = image_px or model.images.image_px
    shown = read_images(newest, data, images, side)
    drawn = figures(model.with_params(model.params, f"step {newest.step}"), shown)
    series = [
        panels.look(model.with_weights(one), shown, f"step {one.step}")
        for one in earlier_ones(workdir)
        if one.step < newest.step
    ]
    if series:
        series.append(panels.look(model, shown, f"step {newest.step}"))
        drawn["pca"] = panels.pca_figure("Patch features as colours", [], shown, series)
    return [as_html(figure) for figure in drawn.values()]


def _differences(config: dict[str, Any], recipe: str | None) -> str:
    """What the run sets otherwise than its recipe, key by key."""
    if recipe is None:
        other, name = default_config(), "the defaults"
    else:
        file, _, variant = recipe.partition(":")
        other, name = read_recipe(file, *([variant] if variant else [])), recipe
    before = flatten(json.loads(json.dumps(to_dict(parse_config(other)))))
    now = flatten(config)
    rows = [
        [key, _text(before, key), _text(now, key)]
        for key in sorted(before.keys() | now.keys())
        if _text(before, key) != _text(now, key)
    ]
    if not rows:
        return f"<p>Exactly {html.escape(name)}.</p>"
    return table(("key", name, "this run"), rows)


def _text(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "absent"


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
