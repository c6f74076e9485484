"""Head recovery: new heads are trained on a frozen backbone until they have something to teach.

Released backbones come without heads. With random ones both sides of the objective say nothing, and
what the student learns from that overwrites what the backbone knew. So the backbone's learning rate
is 0 while a gate is closed, a function of the state like every other rate: there is one train step.

The gate looks at the student's cross-entropy with the teacher's targets as a share of log K, K the
number of prototypes: 1 for a student that holds all of them to be as likely. Cross-entropy is the
entropy of the targets plus the student's divergence from them. So the gate opens only when the
targets of both heads are decided and the student has learned them.
"""

from typing import NamedTuple

import jax.numpy as jnp

from dinojax.ssl.inputs import StepInputs
from dinojax.typing import Array, Bool, Float, Int, Step

Terms = dict[str, Float[Array, ""]]

SHARES = ("dino_cross_entropy", "ibot_cross_entropy")
"""Terms that the gate looks at."""


class Recovery(NamedTuple):
    """How far the heads are; part of `TrainState`."""

    ready_in_a_row: Int[Array, ""]
    """Steps up to the last one whose cross-entropies were low enough, while the gate was closed."""
    opened_at: Int[Array, ""]
    """The first step that trains the backbone; -1: the gate is closed."""


def closed() -> Recovery:
    return Recovery(jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32))


class Gate(NamedTuple):
    """When the backbone is trained, and how fast."""

    open_below: float
    """The share of log K below which the student's cross-entropy with the targets of each head has
    to be."""
    patience_steps: int
    """For so many steps in a row."""
    max_steps: int
    """After so many steps of the run it opens whatever the heads do."""
    warmup_steps: int
    """Steps from the opening to the full learning rate; it grows linearly."""

    def backbone_rate(self, recovery: Recovery, step: Step) -> Float[Array, ""]:
        """The factor on the backbone's learning rate at `step`: 0 while the gate is closed."""
        since = step - recovery.opened_at + 1
        factor = jnp.minimum(since / max(self.warmup_steps, 1), 1)
        return jnp.where(self.is_open(recovery), factor, 0)

    def is_open(self, recovery: Recovery) -> Bool[Array, ""]:
        return recovery.opened_at >= 0

    def after(self, recovery: Recovery, step: Step, terms: Terms) -> Recovery:
        """What `step`, which had these terms, makes of it. An open gate stays as it is."""
        ready = jnp.stack([terms[name] for name in SHARES]).max() < self.open_below
        in_a_row = jnp.where(ready, recovery.ready_in_a_row + 1, 0)
        opens = (in_a_row >= self.patience_steps) | (step + 1 >= self.max_steps)
        opened_at = jnp.where(opens, step + 1, recovery.opened_at)
        already = self.is_open(recovery)
        return Recovery(
            jnp.where(already, recovery.ready_in_a_row, in_a_row).astype(jnp.int32),
            jnp.where(already, recovery.opened_at, opened_at).astype(jnp.int32),
        )

    def metrics(self, recovery: Recovery, step: Step) -> dict[str, Array]:
        return {
            "recovery_open": self.is_open(recovery),
            "recovery_opened_at": recovery.opened_at,
            "recovery_ready_in_a_row": recovery.ready_in_a_row,
            "backbone_lr_factor": self.backbone_rate(recovery, step),
        }


class TargetWatch(NamedTuple):
    """What the gate is to see of an objective: `SHARES` of log K."""

    log_prototypes: tuple[float, float]
    """Of the DINO and of the iBOT head."""

    def __call__(self, terms: Terms, inputs: StepInputs) -> Terms:
        """The student's cross-entropies with the targets of both heads.

        Of CLS tokens between global crops. `ibot_loss` is a sum over masked patches, weighted by
        one over those of their crop, divided by the number of all crops: times crops over masked
        crops it is a mean over masked crops.
        """
        views, images = inputs.global_crops.shape[:2]
        dino, ibot = self.log_prototypes
        masked = inputs.mask_weights.sum()
        return {
            "dino_cross_entropy": terms["dino_global_crops_loss"] / dino,
            "ibot_cross_entropy": terms["ibot_loss"] * views * images / masked / ibot,
        }
