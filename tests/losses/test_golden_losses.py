"""Every loss and target against the reference: values and gradients."""

import re
from functools import partial

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.losses.centering import softmax_center, update_center
from dinojax.losses.dino import dino_loss
from dinojax.losses.gram import gram_loss
from dinojax.losses.ibot import ibot_loss
from dinojax.losses.koleo import koleo_loss
from dinojax.losses.sinkhorn import sinkhorn_knopp

pytestmark = pytest.mark.golden

DINO, CENTERING = "losses/dino_loss.npz", "losses/dino_centering.npz"
IBOT, KOLEO, GRAM = "losses/ibot_loss.npz", "losses/koleo.npz", "losses/gram.npz"
UNLISTED_TEMPERATURE = 0.05
"""Of the cases whose teacher temperature the manifest does not name; found from their numbers."""
V2, RANKS = "losses/dinov2_losses.npz", "losses/distributed_2ranks.npz"


def cases(path: str, suffix: str, start: str = "") -> list[str]:
    names = [k.removesuffix(suffix) for k in goldens.arrays(path) if k.endswith(suffix)]
    return [n for n in names if n.startswith(start)]


def get(path: str, case: str, *names: str) -> list[jax.Array]:
    return [jnp.asarray(goldens.arrays(path)[f"{case}/{name}"]) for name in names]


def check_value_and_grad(path, case, fn, x, grad_name):
    value, grad = jax.jit(jax.value_and_grad(fn))(x)
    goldens.check(path, f"{case}/loss", value)
    if f"{case}/{grad_name}" in goldens.arrays(path):
        goldens.check(path, f"{case}/{grad_name}", grad)


def mean_dino_loss(student: jax.Array, teacher: jax.Array, **options) -> jax.Array:
    return dino_loss(student, teacher, jnp.ones(len(student)), **options)[0]


@pytest.mark.parametrize("case", cases(DINO, "/loss"))
def test_dino(case):
    student, teacher = get(DINO, case, "student_logits", "teacher_probs")
    ignore, temperature = re.fullmatch(r"s\d+_t\d+_ign(\d)_temp([\d.]+)", case).groups()
    check_value_and_grad(
        DINO,
        case,
        lambda s: mean_dino_loss(
            s, teacher, temperature=float(temperature), ignore_diagonal=bool(int(ignore))
        ),
        student,
        "grad_s_logits",
    )


@pytest.mark.parametrize("path", [CENTERING, IBOT])
def test_sinkhorn_knopp(path):
    for case in cases(path, "/teacher_logits") + cases(path, "/logits"):
        match = re.search(r"temp([\d.]+)_it(\d+)", case)
        options = goldens.options(path)
        temperature = float(match[1]) if match else options.get("teacher_temp", 0.07)
        iterations = int(match[2]) if match else 3
        name = "teacher_logits" if f"{case}/teacher_logits" in goldens.arrays(path) else "logits"
        (logits,) = get(path, case, name)
        probs = sinkhorn_knopp(logits, temperature, iterations=iterations)
        goldens.check(path, f"{case}/probs", probs)


def test_softmax_centering():
    arrays, momentum = goldens.arrays(CENTERING), goldens.options(CENTERING)["center_momentum"]
    center = jnp.zeros(arrays["softmax_center/o0"].shape[-1])
    steps = len([k for k in arrays if re.fullmatch(r"softmax_center/o\d+", k)])
    for i in range(steps):
        logits = jnp.asarray(arrays[f"softmax_center/o{i}"])
        goldens.check(CENTERING, f"softmax_center/center_used{i}", center[None])
        probs = softmax_center(logits, center, 0.04 + 0.01 * i)
        goldens.check(CENTERING, f"softmax_center/probs{i}", probs)
        before, center = center, update_center(center, logits, momentum=momentum)
    # update_centers=False: the first logits with the centre of the last step
    first = jnp.asarray(arrays["softmax_center/o0"])
    probs = softmax_center(first, before, 0.07)
    goldens.check(CENTERING, "softmax_center/probs_noupdate", probs)
    goldens.check(CENTERING, "softmax_center/center_final", center[None])


def masked(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of masked tokens and one over the masked count of their own row."""
    counts = np.maximum(masks.sum(-1, keepdims=True), 1)
    return np.flatnonzero(masks), np.broadcast_to(1 / counts, masks.shape)[masks]


@pytest.mark.parametrize("case", cases(IBOT, "/loss"))
def test_ibot(case):
    student, teacher, masks = get(IBOT, case, "student", "teacher", "masks")
    given = goldens.children(IBOT, case)
    indices, weights = masked(given["masks"])
    weights = jnp.asarray(given.get("masks_weight", weights), student.dtype)
    if case == "forward_full":  # all tokens given: gather the masked ones, as our step does
        teacher = teacher.reshape(-1, teacher.shape[-1])[indices]

    def loss(s):
        s = s.reshape(-1, s.shape[-1])[indices] if case == "forward_full" else s[: len(indices)]
        rows = (x[None] for x in (s, teacher[: len(indices)], weights))
        return ibot_loss(*rows, images=len(masks))

    check_value_and_grad(IBOT, case, loss, student, "grad_s_tok")


def test_ibot_centering_averages_tokens_first():
    arrays = goldens.arrays(IBOT)
    center = jnp.zeros(arrays["softmax_center/o0"].shape[-1])
    for i in range(len([k for k in arrays if re.fullmatch(r"softmax_center/o\d+", k)])):
        logits = jnp.asarray(arrays[f"softmax_center/o{i}"])
        probs = softmax_center(logits, center, UNLISTED_TEMPERATURE)
        goldens.check(IBOT, f"softmax_center/probs{i}", probs)
        center = update_center(center, logits)
    goldens.check(IBOT, "softmax_center/center_final", center[None, None])


@pytest.mark.parametrize("case", cases(KOLEO, "/loss"))
def test_koleo(case):
    (x,) = get(KOLEO, case, "x")
    topk = re.search(r"topk(\d+)", case)
    topk = int(topk[1]) if topk else 1
    grad_name = "grad_s_x"
    check_value_and_grad(KOLEO, case, lambda x: koleo_loss(x, topk=topk), x, grad_name)


@pytest.mark.parametrize("case", cases(GRAM, "/loss"))
def test_gram(case):
    student, teacher = (jnp.asarray(goldens.arrays(GRAM)[k]) for k in ("student", "teacher"))
    norm, per_image, negatives = re.match(r"norm(\d)_img(\d)_(neg|teacher_neg|none)", case).groups()
    flat = case.endswith("_2d")

    def loss(s):
        pair = [s, teacher]
        if per_image == "0":
            pair = [x.reshape(1, -1, x.shape[-1]) for x in pair]
        option = {"none": "keep", "neg": "remove", "teacher_neg": "remove_teacher"}[negatives]
        return gram_loss(*pair, normalized=bool(int(norm)), negatives=option)

    student = student.reshape(-1, student.shape[-1]) if flat else student
    check_value_and_grad(GRAM, case, loss, student, "grad_s_x")


def test_dinov2_losses():
    student, teacher = get(V2, "dino", "student", "teacher")
    pairs = student.shape[0] * teacher.shape[0]  # DINOv2 sums over pairs

    def dino(s):
        return mean_dino_loss(s, teacher) * pairs

    check_value_and_grad(V2, "dino", dino, student, "grad_s_x")
    student, teacher, masks = get(V2, "ibot", "student", "teacher", "masks")
    weights = jnp.asarray(masked(np.asarray(masks))[1], student.dtype)[None]

    def ibot(s):
        return ibot_loss(s[None], teacher[None], weights, images=len(masks))

    check_value_and_grad(V2, "ibot", ibot, student, "grad_s_x")
    (x,) = get(V2, "koleo", "x")
    check_value_and_grad(V2, "koleo", koleo_loss, x, "grad_s_x")


def ranks(*parts: str) -> list[np.ndarray]:
    """The arrays of all ranks of the distributed golden run."""
    names = sorted({k.split("/")[0] for k in goldens.arrays(RANKS)})
    return [goldens.arrays(RANKS)["/".join((rank, *parts))] for rank in names]


def check_ranks(value, *parts: str) -> None:
    """Split a global result into ranks and compare each with its own array."""
    sizes = np.cumsum([len(x) for x in ranks(*parts)])[:-1]
    for rank, piece in enumerate(np.split(np.asarray(value), sizes)):
        goldens.check(RANKS, "/".join((f"rank{rank}", *parts)), piece)


@pytest.mark.parametrize("name", ["dino_sk", "ibot_sk"])
def test_two_ranks_are_one_global_batch(name):
    logits = jnp.concatenate([jnp.asarray(x) for x in ranks(name, "teacher_logits")])
    check_ranks(sinkhorn_knopp(logits, UNLISTED_TEMPERATURE), name, "probs")


def test_two_ranks_centre():
    logits = jnp.concatenate([jnp.asarray(x) for x in ranks("dino_sk", "teacher_logits")])
    center = update_center(jnp.zeros(logits.shape[-1]), logits)
    for rank in range(len(ranks("center", "center"))):
        goldens.check(RANKS, f"rank{rank}/center/center", center[None])
    check_ranks(
        softmax_center(logits, center, UNLISTED_TEMPERATURE), "center", "probs_after_update"
    )


def test_two_ranks_koleo():
    x = jnp.concatenate([jnp.asarray(x) for x in ranks("koleo", "x")])
    world = len(ranks("koleo", "x"))
    found = {k.split("/")[2] for k in goldens.arrays(RANKS) if "/koleo/topk" in k}
    assert found
    for case in found:
        topk, group = re.fullmatch(r"topk(\d+)_group(all|\d+)", case).groups()
        size = None if group == "all" else int(group)
        loss = partial(koleo_loss, group_size=size, topk=int(topk))
        value, grad = jax.jit(jax.value_and_grad(loss))(x)
        losses = np.mean(ranks("koleo", case, "loss"))
        tolerance = goldens.column(RANKS, f"rank0/koleo/{case}/loss", "atol")
        np.testing.assert_allclose(value, losses, rtol=0, atol=tolerance)
        # The reference differentiates through the all-gather: world times the mean's gradient.
        check_ranks(grad * world, "koleo", case, "grad_x")
