"""From views to student and teacher outputs (DINOv3, section 3; the reference's forward pass)."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from dinojax.losses.chunked import Rows
from dinojax.models.features import Features
from dinojax.models.head import DinoHead
from dinojax.models.presets import Backbone
from dinojax.ssl.inputs import StepInputs, gather_patches, to_groups, to_views
from dinojax.typing import Array, Bool, Float, Key, Params


class SslModel(NamedTuple):
    """A backbone and its two heads; parameters are a dict with the same names."""

    backbone: Backbone
    dino_head: DinoHead
    ibot_head: DinoHead | None
    """None: the DINO head is that of the patches too (DINOv2's default); there are no parameters of
    this name then."""

    @property
    def patch_head_name(self) -> str:
        """Whose parameters the patches' logits are made with."""
        return "dino_head" if self.ibot_head is None else "ibot_head"

    @property
    def patch_head(self) -> DinoHead:
        return self.dino_head if self.ibot_head is None else self.ibot_head

    def init(self, key: Key, channels: int = 3) -> Params:
        """Parameters of all, independent of any image size."""
        return init_parts(self._asdict(), key, channels)


def init_parts(parts: dict[str, Any], key: Key, channels: int = 3) -> Params:
    """Parameters of a backbone, which comes first, and of what takes its tokens; None has none."""
    there = {name: part for name, part in parts.items() if part is not None}
    side, width = there["backbone"].stride, there["backbone"].embed_dim
    examples = {name: jnp.zeros((1, width)) for name in there}
    examples["backbone"] = jnp.zeros((1, 1, side, side, channels))
    keys = jax.random.split(key, len(there))
    return {
        name: part.init(k, examples[name])["params"]
        for k, (name, part) in zip(keys, there.items(), strict=True)
    }


class Bottlenecks(NamedTuple):
    """The narrow inputs of both prototype layers, in group layout."""

    cls: Float[Array, "*m G b F"]
    patches: Float[Array, "*m G M E"]
    """Only the patches that are masked for the student."""
    real: Bool[Array, "*m G M"] | None
    """See `StepInputs.mask_real`."""


class TeacherOutputs(NamedTuple):
    """Of the unmasked global crops, before centering."""

    cls_logits: Float[Array, "V B K"]
    patch_logits: Float[Array, "G M J"]
    patches: Float[Array, "G b P D"]
    """All of them, normed, before the head: for Gram anchoring."""
    patch_real: Bool[Array, "G M"] | None = None
    """See `StepInputs.mask_real`."""


class StudentOutputs(NamedTuple):
    """Of masked global crops and of local crops."""

    global_cls: Float[Array, "V B D"]
    """Normed CLS before the head, for KoLeo."""
    cls_logits: Float[Array, "s B K"] | Rows
    """Of global crops, then of local crops."""
    patch_logits: Float[Array, "G M J"] | Rows
    patches: Float[Array, "G b P D"]
    """All patches of the global crops, normed, before the head: for Gram anchoring."""


def teacher_forward(model: SslModel, params: Params, inputs: StepInputs) -> TeacherOutputs:
    """Of whole global crops alone: the pixels of the student, unless the inputs hold others."""
    features, patches = teacher_bottlenecks(model, params, inputs)
    return TeacherOutputs(
        to_views(
            _logits(model.dino_head, params["dino_head"], features.cls),
            inputs.global_crops.shape[0],
        ),
        _logits(model.patch_head, params[model.patch_head_name], features.patches),
        patches,
        features.real,
    )


def student_forward(model: SslModel, params: Params, inputs: StepInputs) -> StudentOutputs:
    """Both crop sizes in one pass over depth; one call of the DINO head for all CLS tokens."""
    whole, features = student_bottlenecks(model, params, inputs)
    views, local_views = inputs.global_crops.shape[0], inputs.local_crops.shape[0]
    logits = _logits(model.dino_head, params["dino_head"], features.cls)
    return StudentOutputs(
        to_views(whole.cls, views),
        cls_logits=to_views(logits, views + local_views),
        patch_logits=_logits(model.patch_head, params[model.patch_head_name], features.patches),
        patches=whole.patches,
    )


def teacher_bottlenecks(
    model: SslModel, params: Params, inputs: StepInputs
) -> tuple[Bottlenecks, Float[Array, "G b P D"]]:
    """What `teacher_forward` multiplies with the prototypes, and all normed patches."""
    groups = inputs.mask_indices.shape[0]
    own = inputs.teacher_crops
    crops = to_groups(inputs.global_crops if own is None else own, groups)
    output = model.backbone.apply({"params": params["backbone"]}, crops)
    (features,) = cast(tuple[Features, ...], output)
    narrow = _bottlenecks(model, params, features.cls, features.patches, inputs)
    return narrow, features.patches


def student_bottlenecks(
    model: SslModel, params: Params, inputs: StepInputs
) -> tuple[Features, Bottlenecks]:
    """Features of the global crops before the head, and what is multiplied with the prototypes.

    The CLS tokens of a group are those of its global crops, then of its local crops.
    """
    groups = inputs.mask_indices.shape[0]
    output = model.backbone.apply(
        {"params": params["backbone"]},
        to_groups(inputs.global_crops, groups),
        to_groups(inputs.local_crops, groups),
        masks=inputs.masks,
        draws=inputs.draws,
    )
    whole, local = cast(tuple[Features, ...], output)
    cls = jnp.concatenate([whole.cls, local.cls], axis=1)
    return whole, _bottlenecks(model, params, cls, whole.patches, inputs)


def _bottlenecks(
    model: SslModel,
    params: Params,
    cls: Float[Array, "G b D"],
    patches: Float[Array, "G v P D"],
    inputs: StepInputs,
) -> Bottlenecks:
    def reduced(name: str, x: Float[Array, "G n D"]) -> Float[Array, "G n F"]:
        head = getattr(model, name)
        return cast(Array, head.apply({"params": params[name]}, x, method="to_bottleneck"))

    masked = gather_patches(patches, inputs.mask_indices)
    return Bottlenecks(
        reduced("dino_head", cls), reduced(model.patch_head_name, masked), inputs.mask_real
    )


def _logits(head: DinoHead, params: Params, x: Float[Array, "*R F"]) -> Float[Array, "*R K"]:
    return cast(Array, head.apply({"params": params}, x, method="to_logits"))
