"""DINOv2's whole step against one written out from its papers and code, in float64.

No golden file has it. Backbone and head are those that the golden files of their own check; around
them the oracle knows no groups, no padding and no chunks: it takes crops in flat batches, masked
patches from ragged lists, pairs of crops one by one, and updates parameters in NumPy under the
reference's names.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from dinojax import trees
from dinojax.export.names import to_torch
from dinojax.losses.chunked import chunked_dino_loss, chunked_ibot_loss
from dinojax.models.head import DinoHead
from dinojax.models.vit import VisionTransformer
from dinojax.optim.optimizer import AdamW
from dinojax.precision import POLICIES
from dinojax.ssl.accumulation import AccumulatedLoss, moving_centers, sinkhorn_centers
from dinojax.ssl.forward import SslModel
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.loss import Loss, Schedules
from dinojax.ssl.objective import Objective, sinkhorn_centering, softmax_centering
from dinojax.ssl.state import Centers, init_state
from dinojax.ssl.step import make_train_step

IMAGES, LOCAL, GROUPS, WIDTH, DEPTH = 4, 3, 2, 8, 2
GLOBAL_PX, LOCAL_PX, PATCH = 12, 8, 4
"""3 x 3 patches, as many as the position table has, and 2 x 2, for which it is resampled."""
MASKED = {0: [0, 4, 5], 3: [8], 5: [1, 2], 6: [3, 4, 6, 7]}
"""Masked patches by crop, crop-major (first global crops first); four of the eight are whole."""
SLOTS = 7
"""Masked patches that each group has room for: fewer are there in either of them."""
RATES = {
    "lr": 0.01,
    "last_layer_lr": 0.004,
    "weight_decay": 0.3,
    "momentum": 0.9,
    "teacher_temp": 0.05,
    "dino_local_loss_weight": 1.0,
}
KOLEO, CLIP, LAYER_DECAY, PATCH_LR = 0.1, 0.5, 0.8, 0.2
STEPS = 2
CASES = {
    "tied heads, softmax": (True, "softmax", False),
    "separate heads, Sinkhorn": (False, "sinkhorn", False),
    "tied heads, Sinkhorn, in chunks": (True, "sinkhorn", True),
    "separate heads, softmax, in chunks": (False, "softmax", True),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def make_model(tied: bool) -> SslModel:
    precision = POLICIES["float64"]
    backbone = VisionTransformer(
        WIDTH,
        DEPTH,
        2,
        precision,
        patch_size=PATCH,
        ffn_layer="swiglu",
        layerscale=0.5,
        n_storage_tokens=1,
        pos_embed_grid=GLOBAL_PX // PATCH,
    )

    def head(prototypes: int) -> DinoHead:
        return DinoHead(prototypes, precision, hidden_dim=10, bottleneck_dim=6, weight_norm=True)

    return SslModel(backbone, head(12), None if tied else head(9))


def random_params(model: SslModel, seed: int):
    """Every term counts: gains and norms near 1, all else of the size of its fan-in."""
    rng = np.random.default_rng(seed)

    def value(path: str, like):
        noise = rng.normal(size=like.shape)
        if re.search("scale|gain|gamma", path):
            return jnp.asarray(1 + 0.2 * noise)
        return jnp.asarray(0.5 * noise)

    return trees.map_named(value, jax.eval_shape(model.init, jax.random.key(0)))


def crops() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return (
        rng.normal(size=(2, IMAGES, GLOBAL_PX, GLOBAL_PX, 3)),
        rng.normal(size=(LOCAL, IMAGES, LOCAL_PX, LOCAL_PX, 3)),
    )


def inputs() -> StepInputs:
    """Ours: in groups, the masked patches of each padded to `SLOTS`."""
    per_group = IMAGES // GROUPS
    patches = (GLOBAL_PX // PATCH) ** 2
    flat = np.zeros((2 * IMAGES, patches), bool)
    for crop, masked in MASKED.items():
        flat[crop, masked] = True
    masks = rearrange(flat, "(V G g) P -> G (V g) P", V=2, g=per_group)
    indices, real, weights = (np.zeros((GROUPS, SLOTS)) for _ in range(3))
    for group, mask in enumerate(masks):
        found = np.flatnonzero(mask)
        assert 0 < len(found) < SLOTS
        indices[group, : len(found)] = found
        real[group, : len(found)] = 1
        weights[group, : len(found)] = 1 / mask.sum(axis=1)[found // patches]
    global_crops, local_crops = crops()
    return StepInputs(
        global_crops=jnp.asarray(global_crops),
        local_crops=jnp.asarray(local_crops),
        masks=jnp.asarray(masks),
        mask_indices=jnp.asarray(indices, jnp.int32),
        mask_weights=jnp.asarray(weights),
        draws=(None, None),
        mask_real=jnp.asarray(real, bool),
    )


def our_step(model: SslModel, centering: str, chunked: bool):
    constant = {name: (lambda step, v=v: jnp.asarray(v)) for name, v in RATES.items()}
    schedules = Schedules(**constant)
    objective = Objective(koleo_loss_weight=KOLEO, koleo_group_size=IMAGES)
    if chunked:
        centers = {"softmax": moving_centers, "sinkhorn": sinkhorn_centers}[centering]
        objective = objective._replace(dino=chunked_dino_loss, ibot=chunked_ibot_loss)
        loss = AccumulatedLoss(model, objective, centers, schedules)
    else:
        centers = {"softmax": softmax_centering, "sinkhorn": sinkhorn_centering}[centering]
        loss = Loss(model, objective, centers, schedules)
    optimizer = AdamW(clip_grad=CLIP, layerwise_decay=LAYER_DECAY, patch_embed_lr_mult=PATCH_LR)
    step = make_train_step(
        loss=loss, optimizer=optimizer, make_inputs=lambda batch, step, *part: batch
    )
    return optimizer, jax.jit(step)


# The oracle.


def features_of(model: SslModel, params, images, masks=None):
    """CLS and patches of a flat batch."""
    masks = None if masks is None else jnp.asarray(masks)[None]
    (found,) = model.backbone.apply(
        {"params": params["backbone"]}, jnp.asarray(images)[None], masks=masks
    )
    return found.cls[0], found.patches[0]


def logits_of(model: SslModel, params, name: str, x):
    name = name if getattr(model, name) is not None else "dino_head"
    return getattr(model, name).apply({"params": params[name]}, x)


def sinkhorn(logits):
    """Section 3.1 of SwAV: ``Q = exp(z / T)``, prototypes in rows, three turns."""
    q = jnp.exp(logits / RATES["teacher_temp"]).T
    q /= q.sum()
    for _ in range(3):
        q = q / q.sum(axis=1, keepdims=True) / q.shape[0]
        q = q / q.sum(axis=0, keepdims=True) / q.shape[1]
    return (q * q.shape[1]).T


def cross_entropy(target, logits):
    """Per row."""
    return -(target * jax.nn.log_softmax(logits / 0.1)).sum(axis=1)


def koleo(x):
    unit = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    nearest = unit[jnp.argmax(unit @ unit.T - 3 * jnp.eye(len(unit)), axis=1)]
    distance = jnp.sqrt(jnp.square(unit - nearest + 1e-8).sum(axis=1))
    return -jnp.log(distance + 1e-8).mean()


def masked_tokens(patches):
    return jnp.stack([patches[crop, patch] for crop, masked in MASKED.items() for patch in masked])


def oracle_loss(student, teacher, centers, model: SslModel, centering: str):
    """Total loss; its terms and the next centres ride along."""
    global_crops, local_crops = crops()
    flat = rearrange(global_crops, "V B ... -> (V B) ...")
    masks = np.zeros((2 * IMAGES, (GLOBAL_PX // PATCH) ** 2), bool)
    for crop, masked in MASKED.items():
        masks[crop, masked] = True

    cls, patches = features_of(model, teacher, flat)
    cls_logits = logits_of(model, teacher, "dino_head", cls)
    patch_logits = logits_of(model, teacher, "ibot_head", masked_tokens(patches))
    if centering == "sinkhorn":
        cls_targets, patch_targets = sinkhorn(cls_logits), sinkhorn(patch_logits)
    else:
        temperature = RATES["teacher_temp"]
        cls_targets = jax.nn.softmax((cls_logits - centers[0]) / temperature)
        patch_targets = jax.nn.softmax((patch_logits - centers[1]) / temperature)
        moved = (cls_logits.mean(axis=0), patch_logits.mean(axis=0))
        centers = tuple(0.9 * c + 0.1 * m for c, m in zip(centers, moved, strict=True))
    targets = jnp.split(cls_targets, 2)

    cls, patches = features_of(model, student, flat, masks)
    ours = jnp.split(logits_of(model, student, "dino_head", cls), 2)
    local_cls, _ = features_of(model, student, rearrange(local_crops, "V B ... -> (V B) ..."))
    local = jnp.split(logits_of(model, student, "dino_head", local_cls), LOCAL)
    pairs = 2 * 1 + 2 * LOCAL  # global with the other global, local with either global

    across = cross_entropy(targets[1], ours[0]).mean() + cross_entropy(targets[0], ours[1]).mean()
    locally = sum(cross_entropy(target, z).mean() for target in targets for z in local)
    token_logits = logits_of(model, student, "ibot_head", masked_tokens(patches))
    weights = jnp.asarray([1 / len(masked) for masked in MASKED.values() for _ in masked])
    ibot = weights @ cross_entropy(patch_targets, token_logits) / (2 * IMAGES)
    spread = sum(koleo(half) for half in jnp.split(cls, 2))
    total = (across + locally) / pairs + ibot + KOLEO * spread
    terms = {
        "total_loss": total,
        "dino_global_crops_loss": across / 2,
        "dino_local_crops_loss": locally / (2 * LOCAL),
        "ibot_loss": ibot,
        "koleo_loss": spread / 2,
    }
    return total, (terms, centers)


class OracleAdamW:
    """Per parameter, in NumPy, under the reference's names."""

    def __init__(self):
        self.steps, self.mean, self.square = 0, {}, {}

    def update(self, params: dict, grads: dict) -> dict:
        self.steps += 1
        norms = {}
        for name, grad in grads.items():
            module = name.split(".")[0]
            norms[module] = norms.get(module, 0.0) + np.square(grad).sum()
        out = {}
        for name, theta in params.items():
            norm = np.sqrt(norms[name.split(".")[0]])
            grad = grads[name] * min(1, CLIP / (norm + 1e-6))
            self.mean[name] = 0.9 * self.mean.get(name, 0) + 0.1 * grad
            self.square[name] = 0.999 * self.square.get(name, 0) + 0.001 * grad**2
            mean = self.mean[name] / (1 - 0.9**self.steps)
            square = self.square[name] / (1 - 0.999**self.steps)
            undecayed = name.endswith("bias") or "norm" in name or "gamma" in name
            rate = RATES["last_layer_lr" if "last_layer" in name else "lr"] * lr_multiplier(name)
            decay = 0 if undecayed else RATES["weight_decay"]
            out[name] = theta - rate * (mean / (np.sqrt(square) + 1e-8) + decay * theta)
        return out


def lr_multiplier(name: str) -> float:
    """``decay ** (L + 1 - layer)``; the embedding is layer 0, block i layer i + 1."""
    if block := re.search(r"blocks\.(\d+)\.", name):
        return LAYER_DECAY ** (DEPTH - int(block[1]))
    if re.search("pos_embed|token", name):
        return LAYER_DECAY ** (DEPTH + 1)
    return LAYER_DECAY ** (DEPTH + 1) * PATCH_LR if "patch_embed" in name else 1.0


def named(params) -> dict[str, np.ndarray]:
    return {f"{m}.{k}": v for m, tree in params.items() for k, v in to_torch(tree).items()}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=pytest.mark.slow if tied or chunked else ())
        for name, (tied, _, chunked) in CASES.items()
    ],
)
def test_losses_gradients_and_update(case):
    tied, centering, chunked = CASES[case]
    model = make_model(tied)
    optimizer, step = our_step(model, centering, chunked)
    rng = np.random.default_rng(3)
    centers = None
    if centering == "softmax":
        sizes = (model.dino_head.prototypes, model.patch_head.prototypes)
        centers = tuple(jnp.asarray(0.1 * rng.normal(size=size)) for size in sizes)
    student = random_params(model, 0)
    assert ("ibot_head" in student) != tied
    state = init_state(student, optimizer.init(student), centers and Centers(*centers))
    state = state._replace(teacher=random_params(model, 1))

    oracle = jax.jit(
        jax.value_and_grad(lambda *args: oracle_loss(*args, model, centering), has_aux=True)
    )
    theirs, expected = OracleAdamW(), (named(state.student), named(state.teacher))
    for _ in range(STEPS):
        (_, (terms, centers)), grads = oracle(state.student, state.teacher, centers)
        state, metrics = step(state, inputs())
        for name, value in terms.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-10, err_msg=name)
        for module, tree in grads.items():
            norm = metrics[f"{module}_grad_norm"]
            np.testing.assert_allclose(norm, trees.global_norm(tree), rtol=1e-9)
            assert norm > CLIP / 10
        after = theirs.update(expected[0], named(grads))
        average = {k: 0.9 * v + 0.1 * after[k] for k, v in expected[1].items()}
        assert max(np.abs(after[k] - v).max() for k, v in expected[0].items()) > 5e-3
        for found, tree in ((state.student, after), (state.teacher, average)):
            ours = named(found)
            assert ours.keys() == tree.keys()
            for name, value in tree.items():
                np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-9, err_msg=name)
        if centers is not None:
            for ours, value in zip(state.centers, centers, strict=True):
                np.testing.assert_allclose(ours, value, rtol=1e-10)
        expected = after, average
    assert int(state.refused_steps) == 0
