"""The PyTorch step that the CPU benchmark compares with computes what ours computes."""

import copy
import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from dinojax.export.names import to_torch
from dinojax.models.head import DinoHead
from dinojax.models.presets import get_preset
from dinojax.models.vit import VisionTransformer
from dinojax.optim.optimizer import AdamW
from dinojax.precision import POLICIES
from dinojax.ssl.forward import SslModel
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.loss import Loss, Schedules
from dinojax.ssl.objective import Objective, sinkhorn_centering
from dinojax.ssl.state import init_state
from dinojax.ssl.step import make_train_step

pytestmark = pytest.mark.parity

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
IMAGES, GLOBAL_PX, LOCAL_PX, LOCAL_CROPS = 3, 64, 32, 4
WIDTH, DEPTH, HEADS, PROTOTYPES, HIDDEN, BOTTLENECK = 48, 3, 3, 40, 32, 16
STEPS = 3
RTOL, ATOL = 1e-9, 1e-9
"""Of losses and of parameters: in float64, because Adam's first steps blow up rounding errors of
near-zero gradients to the size of the learning rate."""


@pytest.fixture
def float64():
    """Both libraries compute in float64."""
    import torch

    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def torch_step(float64):
    """``benchmarks/torch_step.py`` as a module; it imports its neighbour `measure`."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("torch_step", BENCHMARKS / "torch_step.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def our_step(rates):
    """Initial state and step of the benchmark's method: the ViT-S preset, shrunk."""
    precision = POLICIES["float64"]
    options = get_preset("vits16").model | {
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
        "layerscale": 0.5,  # 1e-5 would hide the layers
    }
    head = DinoHead(PROTOTYPES, precision, hidden_dim=HIDDEN, bottleneck_dim=BOTTLENECK)
    model = SslModel(VisionTransformer(precision=precision, **options), head, head)
    constant = {name: (lambda step, v=v: jnp.float64(v)) for name, v in rates._asdict().items()}
    schedules = Schedules(dino_local_loss_weight=lambda step: jnp.float64(1), **constant)
    optimizer = AdamW(layerwise_decay=0.9, patch_embed_lr_mult=0.2)
    step = make_train_step(
        loss=Loss(model, Objective(), sinkhorn_centering, schedules),
        optimizer=optimizer,
        make_inputs=lambda batch, step: batch,
    )
    student = model.init(jax.random.key(0))
    # Weights five times as large: the initial ones leave every output nearly uniform.
    student = jax.tree.map(lambda x: x * 5 if x.ndim > 1 else x, student)
    return init_state(student, optimizer.init(student), None), jax.jit(step)


def our_inputs(batch) -> StepInputs:
    def crops(x) -> jax.Array:
        return jnp.asarray(rearrange(x.numpy(), "(V B) c h w -> V B h w c", B=IMAGES))

    return StepInputs(
        global_crops=crops(batch.global_crops),
        local_crops=crops(batch.local_crops),
        masks=jnp.asarray(batch.masks.numpy())[None],
        mask_indices=jnp.asarray(batch.indices.numpy(), jnp.int32)[None],
        mask_weights=jnp.asarray(batch.weights.numpy())[None],
        draws=(None, None),
    )


def assert_same_parameters(module, params: dict) -> None:
    ours = {f"{name}.{k}": v for name, tree in params.items() for k, v in to_torch(tree).items()}
    theirs = {name: value.detach().numpy() for name, value in module.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(
            ours[name].reshape(value.shape), value, rtol=0, atol=ATOL, err_msg=name
        )


@pytest.mark.slow
def test_losses_and_parameters_after_each_step(torch_step):
    import torch

    rates = torch_step.Rates()
    state, step = our_step(rates)
    student = torch_step.make_model(
        width=WIDTH,
        depth=DEPTH,
        heads=HEADS,
        prototypes=PROTOTYPES,
        hidden=HIDDEN,
        bottleneck=BOTTLENECK,
    )
    for name, module in student.items():
        weights = to_torch(state.student[name])
        module.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, strict=True)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch_step.make_optimizer(student)
    batch = torch_step.random_batch(IMAGES, GLOBAL_PX, LOCAL_PX, LOCAL_CROPS, patch=16)
    inputs = our_inputs(batch)

    before = to_torch(state.student["backbone"])
    for _ in range(STEPS):
        terms = torch_step.train_step(student, teacher, optimizer, batch, rates)
        state, metrics = step(state, inputs)
        for name, value in terms.items():
            np.testing.assert_allclose(metrics[name], value, rtol=RTOL, err_msg=name)
        assert_same_parameters(student, state.student)
        assert_same_parameters(teacher, state.teacher)
    moved = to_torch(state.student["backbone"])
    name = "blocks.1.attn.qkv.weight"
    assert np.abs(moved[name] - before[name]).mean() > 1e-3, "weights that stay prove nothing"
    assert float(metrics["backbone_grad_norm"]) > 0.1
