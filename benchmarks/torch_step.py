"""The same train step in PyTorch, written for comparison: ``train_step.py``'s flags and JSON keys.

    python benchmarks/torch_step.py --global_px=112 --local_px=48 --prototypes=4096 [--compile]

The method of the DINOv3 reference without its framework (one process, on a GPU if there is one):
both crop sizes in one pass, iBOT head on masked patches only, Sinkhorn-Knopp targets, KoLeo,
per-submodule clipping, AdamW with parameter groups, moving-average teacher. With
``--dtype=bfloat16`` the models run under autocast; master weights, logits and losses are float32.
Parameter names are the reference's.
``tests/parity/test_torch_step.py`` proves that it computes what ours computes. Crops are ready-made
tensors here; ours cuts and distorts them inside the step. Needs the extra `parity`.
"""

import copy
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import measure
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dinojax.models.presets import get_preset

Streams = list[Tensor]
"""Tokens ``[b, N, D]`` of each crop size."""
Rope = tuple[Tensor, Tensor]
GLOBAL_CROPS, STUDENT_TEMP = 2, 0.1


class Batch(NamedTuple):
    """Crop-major images ``[V * B, C, S, S]`` and the masked patches of the global ones."""

    global_crops: Tensor
    local_crops: Tensor
    masks: Tensor
    indices: Tensor
    weights: Tensor


class Rates(NamedTuple):
    """Hyperparameters of one step."""

    lr: float = 1e-3
    last_layer_lr: float = 1e-3
    weight_decay: float = 0.04
    momentum: float = 0.992
    teacher_temp: float = 0.07


def on_all(function: Callable[[Tensor], Tensor], streams: Streams) -> Streams:
    """One call of a tokenwise function for all crop sizes."""
    shapes = [x.shape[:2] for x in streams]
    out = function(torch.cat([x.flatten(0, 1) for x in streams]))
    parts = out.split([rows * tokens for rows, tokens in shapes])
    return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotate-half RoPE of ``[b, H, N, d]``; prefix tokens stay."""
    sin, cos = rope
    prefix, patches = x.split([x.shape[2] - sin.shape[0], sin.shape[0]], dim=2)
    first, second = patches.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return torch.cat([prefix, (patches * cos + turned * sin).to(x.dtype)], dim=2)


class Attention(nn.Module):
    bias_mask: Tensor

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        mask = torch.ones(3, width)
        mask[1] = 0  # keys have no bias
        self.register_buffer("bias_mask", mask.flatten(), persistent=False)

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.qkv.weight, self.qkv.bias * self.bias_mask)

    def attend(self, qkv: Tensor, rope: Rope) -> Tensor:
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(rotate(q, rope), rotate(k, rope), v)
        return out.transpose(1, 2).flatten(2)

    def forward(self, streams: Streams, ropes: Sequence[Rope]) -> Streams:
        qkvs = on_all(self.project, streams)
        return on_all(self.proj, [self.attend(x, r) for x, r in zip(qkvs, ropes, strict=True)])


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-5), nn.LayerNorm(width, 1e-5)
        self.attn, self.mlp = Attention(width, heads), Mlp(width, 4 * width)
        self.ls1, self.ls2 = LayerScale(width), LayerScale(width)

    def forward(self, streams: Streams, ropes: Sequence[Rope]) -> Streams:
        updates = self.attn([self.norm1(x) for x in streams], ropes)
        streams = [x + self.ls1(u) for x, u in zip(streams, updates, strict=True)]
        updates = on_all(self.mlp, [self.norm2(x) for x in streams])
        return [x + self.ls2(u) for x, u in zip(streams, updates, strict=True)]


class Vit(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, patch: int, registers: int):
        super().__init__()
        self.patch, self.registers, self.head_dim = patch, registers, width // heads
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.storage_tokens = nn.Parameter(torch.randn(1, registers, width) * 0.02)
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, 1e-5)

    def tokens(self, images: Tensor, masks: Tensor | None) -> Tensor:
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        if masks is not None:
            x = torch.where(masks[..., None], self.mask_token, x)
        prefix = torch.cat([self.cls_token, self.storage_tokens], dim=1)
        return torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)

    def rope(self, side: int) -> Rope:
        """Sine and cosine per patch of a square grid, the same for all layers."""
        device = self.cls_token.device
        axis = (torch.arange(side, device=device) + 0.5) / side * 2 - 1
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).flatten(0, 1)
        periods = 100 ** (torch.arange(self.head_dim // 4, device=device) / (self.head_dim // 4))
        angles = (2 * math.pi * grid[..., None] / periods).flatten(1).tile(2)
        return angles.sin(), angles.cos()

    def forward(self, crops: Sequence[Tensor], masks: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """Normed (CLS, patches) of each crop size; only the first one is masked."""
        ropes = [self.rope(x.shape[-1] // self.patch) for x in crops]
        streams = [self.tokens(x, None if i else masks) for i, x in enumerate(crops)]
        for block in self.blocks:
            streams = block(streams, ropes)
        streams = [self.norm(x) for x in streams]
        return [(x[:, 0], x[:, 1 + self.registers :]) for x in streams]


class Head(nn.Module):
    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.last_layer = nn.Linear(bottleneck, prototypes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))


def make_model(
    *,
    width: int,
    depth: int,
    heads: int,
    prototypes: int,
    patch: int = 16,
    registers: int = 4,
    hidden: int = 2048,
    bottleneck: int = 256,
) -> nn.ModuleDict:
    """Backbone and heads, initialised as the reference does."""
    sizes = (width, hidden, bottleneck, prototypes)
    model = nn.ModuleDict(
        {
            "backbone": Vit(width, depth, heads, patch, registers),
            "dino_head": Head(*sizes),
            "ibot_head": Head(*sizes),
        }
    )
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float) -> Tensor:
    """Three iterations over ``[rows, K]``; the scale of the whole matrix does not matter."""
    scaled = logits / temperature
    q = (scaled - scaled.max()).exp_()
    for _ in range(3):
        q /= q.sum(dim=0)
        q /= q.sum(dim=1, keepdim=True)
    return q


def dino_loss(student: Tensor, targets: Tensor, ignore_diagonal: bool) -> Tensor:
    """Mean cross-entropy over crop pairs of ``[s, B, K]`` logits and ``[t, B, K]`` targets."""
    pairs = -torch.einsum("sbk,tbk->st", F.log_softmax(student / STUDENT_TEMP, dim=-1), targets)
    count = pairs.numel()
    if ignore_diagonal:
        diagonal = pairs.diagonal()
        pairs = pairs - torch.diag_embed(diagonal)
        count -= len(diagonal)
    return pairs.sum() / (count * student.shape[1])


def ibot_loss(student: Tensor, targets: Tensor, weights: Tensor, crops: int) -> Tensor:
    tokens = -(targets * F.log_softmax(student / STUDENT_TEMP, dim=-1)).sum(dim=-1)
    return (weights * tokens).sum() / crops


def koleo_loss(features: Tensor) -> Tensor:
    unit = F.normalize(features, dim=-1, eps=1e-8)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-1).argmax(dim=1)
    return -torch.log(F.pairwise_distance(unit, unit[nearest], eps=1e-8) + 1e-8).mean()


def widen(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def losses(
    student: Any, teacher: Any, batch: Batch, teacher_temp: float, autocast: bool
) -> dict[str, Tensor]:
    """Every term and the total, under our metrics' names."""
    rows = len(batch.global_crops)
    images = rows // GLOBAL_CROPS
    half = functools.partial(
        torch.autocast, batch.global_crops.device.type, torch.bfloat16, enabled=autocast
    )

    def masked(patches: Tensor) -> Tensor:
        return patches.flatten(0, 1).index_select(0, batch.indices)

    with torch.no_grad():
        with half():
            [(cls, patches)] = teacher["backbone"]([batch.global_crops], None)
            logits, patch_logits = teacher["dino_head"](cls), teacher["ibot_head"](masked(patches))
        cls_targets = sinkhorn(widen(logits), teacher_temp).unflatten(0, (GLOBAL_CROPS, images))
        patch_targets = sinkhorn(widen(patch_logits), teacher_temp)
    with half():
        crops = [batch.global_crops, batch.local_crops]
        (cls, patches), (local_cls, _) = student["backbone"](crops, batch.masks)
        logits = student["dino_head"](torch.cat([cls, local_cls]))
        patch_logits = student["ibot_head"](masked(patches))
    logits = widen(logits).unflatten(0, (-1, images))
    cls, patch_logits = widen(cls), widen(patch_logits)

    local = dino_loss(logits[GLOBAL_CROPS:], cls_targets, False)
    whole = dino_loss(logits[:GLOBAL_CROPS], cls_targets, True)
    koleo = torch.stack([koleo_loss(x) for x in cls.unflatten(0, (GLOBAL_CROPS, images))]).mean()
    ibot = ibot_loss(patch_logits, patch_targets, batch.weights, rows)
    pairs = GLOBAL_CROPS * (GLOBAL_CROPS - 1)
    local_pairs = GLOBAL_CROPS * (len(logits) - GLOBAL_CROPS)
    dino = (local_pairs * local + pairs * whole) / (local_pairs + pairs)
    return {
        "total_loss": dino + 0.1 * GLOBAL_CROPS * koleo + ibot,
        "dino_local_crops_loss": local,
        "dino_global_crops_loss": whole,
        "koleo_loss": koleo,
        "ibot_loss": ibot,
    }


def make_optimizer(model: nn.ModuleDict, *, layerwise_decay: float = 0.9, patch_mult: float = 0.2):
    """AdamW with one group per (lr multiplier, decayed or not, prototypes or not)."""
    backbone: Any = model["backbone"]
    depth, groups = len(backbone.blocks), {}
    for name, parameter in model.named_parameters():
        exponent = 0
        if ".blocks." in name:
            exponent = depth - int(name.split(".blocks.")[1].split(".")[0])
        elif "token" in name or ".patch_embed." in name:
            exponent = depth + 1
        multiplier = layerwise_decay**exponent * (patch_mult if ".patch_embed." in name else 1)
        decayed = not (name.endswith("bias") or "norm" in name or "gamma" in name)
        groups.setdefault((multiplier, decayed, "last_layer" in name), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": params, "multiplier": multiplier, "decayed": decayed, "last": last}
            for (multiplier, decayed, last), params in groups.items()
        ],
        fused=True,
    )


def train_step(
    student: Any,
    teacher: Any,
    optimizer: Any,
    batch: Batch,
    rates: Rates,
    *,
    autocast: bool = False,
) -> dict[str, float]:
    """One update of student and teacher; the losses before it."""
    for group in optimizer.param_groups:
        group["lr"] = (rates.last_layer_lr if group["last"] else rates.lr) * group["multiplier"]
        group["weight_decay"] = rates.weight_decay * group["decayed"]
    optimizer.zero_grad(set_to_none=True)
    terms = losses(student, teacher, batch, rates.teacher_temp, autocast)
    terms["total_loss"].backward()
    for module in student.values():
        nn.utils.clip_grad_norm_(module.parameters(), 3.0)
    optimizer.step()
    with torch.no_grad():
        averages, weights = list(teacher.parameters()), list(student.parameters())
        torch._foreach_lerp_(averages, weights, 1 - rates.momentum)  # type: ignore[attr-defined]
    return {name: float(term.detach()) for name, term in terms.items()}


def random_batch(images: int, global_px: int, local_px: int, local_crops: int, patch: int) -> Batch:
    """Noise images; half of the global crops are masked by 20, 30, ... 50 % at random places."""
    generator = torch.Generator().manual_seed(0)
    rows, patches = GLOBAL_CROPS * images, (global_px // patch) ** 2
    masks = torch.zeros(rows, patches, dtype=torch.bool)
    ratios = torch.linspace(0.1, 0.5, rows // 2 + 1)[1:]
    for row, ratio in enumerate(ratios):
        places = torch.randperm(patches, generator=generator)[: int(patches * ratio)]
        masks[row, places] = True
    return Batch(
        torch.randn(rows, 3, global_px, global_px, generator=generator),
        torch.randn(local_crops * images, 3, local_px, local_px, generator=generator),
        masks,
        masks.flatten().nonzero().flatten(),
        (1 / masks.sum(dim=1).clamp(min=1))[:, None].expand_as(masks)[masks],
    )


def main() -> None:
    parser = measure.step_arguments(__doc__)
    parser.add_argument("--compile", action="store_true", help="compile layers, heads, Sinkhorn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    preset = get_preset(args.preset).model
    if preset.get("ffn_layer", "mlp") != "mlp":
        parser.error(f"preset={args.preset} has a gated FFN; only a plain MLP is written here")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    student = make_model(
        width=preset["embed_dim"],
        depth=args.depth or preset["depth"],
        heads=preset["num_heads"],
        prototypes=args.prototypes,
    ).to(args.device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = make_optimizer(student)
    batch = random_batch(
        args.batch, args.global_px, args.local_px, args.local_crops, preset["patch_size"]
    )
    batch = Batch(*(x.to(args.device) for x in batch))
    if args.compile:
        global sinkhorn
        sinkhorn = torch.compile(sinkhorn)
        for model in (student, teacher):
            backbone: Any = model["backbone"]
            for module in (*backbone.blocks, model["dino_head"], model["ibot_head"]):
                module.compile()

    half = args.dtype == "bfloat16"

    def step() -> float:
        terms = train_step(student, teacher, optimizer, batch, Rates(), autocast=half)
        return terms["total_loss"]

    def figures(seconds: float) -> dict[str, Any]:
        # After the measurement: JAX takes memory and threads when it first finds its devices.
        import jax
        from train_step import build_flops, step_config

        jax.config.update("jax_platforms", "cpu")
        found: dict[str, Any] = {"flops_per_s": build_flops(step_config(args)) / seconds}
        if args.device != "cpu":
            found["device_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
        return found

    compile_s = 0.0
    if args.compile:
        start = time.perf_counter()
        step()
        compile_s = time.perf_counter() - start
    measure.report(args, step, figures=figures, compile_s=compile_s, warmup=2, backend="torch")


if __name__ == "__main__":
    main()
