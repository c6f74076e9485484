"""What a layer keeps for its backward pass, by name (rematerialization)."""

import jax

from dinojax.kernels.linear import PRODUCT

REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT),
}
"""What a layer keeps for its backward pass: everything, only its input, or the results of products
and of attention, too."""
