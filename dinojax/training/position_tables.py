"""Teachers from checkpoints of another crop size: DINOv2's learned positions on another grid."""

from functools import partial

import jax

from dinojax import trees
from dinojax.models.embed import resample_positions
from dinojax.models.presets import Backbone
from dinojax.models.vit import VisionTransformer
from dinojax.runtime.earlier import Earlier
from dinojax.runtime.stored_state import stored_leaves
from dinojax.typing import Params

TABLE = "backbone/embed/pos_embed"


def read_teacher(earlier: Earlier, wanted: Params, backbone: Backbone) -> Params:
    """The EMA teacher of a checkpoint, or the part of it that is asked for.

    A position table of another grid is resampled once, by the rule by which `backbone` resamples
    it for crops of another size: the teacher sees the crops of the new stage as it saw them before.

    Args:
        wanted: `jax.ShapeDtypeStruct` with shardings.

    Raises:
        ValueError: the checkpoint holds another model.
        CheckpointError: it is damaged.
    """
    table = trees.flatten(wanted).get(TABLE)
    name = f"{earlier.prefix}teacher/{TABLE}"
    stored = None if table is None else stored_leaves(earlier.path).get(name)
    if table is None or stored is None or tuple(stored.shape) == table.shape:
        return earlier.read_teacher(wanted)
    assert isinstance(backbone, VisionTransformer) and backbone.pos_embed_grid is not None
    as_stored = jax.ShapeDtypeStruct(stored.shape, table.dtype, sharding=table.sharding)
    teacher = earlier.read_teacher(_with_table(wanted, as_stored))
    resample = partial(
        resample_positions,
        grid=(backbone.pos_embed_grid, backbone.pos_embed_grid),
        offset=backbone.interpolate_offset,
        antialias=backbone.interpolate_antialias,
    )
    resampled = jax.jit(resample, out_shardings=table.sharding)(trees.flatten(teacher)[TABLE])
    return _with_table(teacher, resampled)


def _with_table(tree: Params, table: jax.Array | jax.ShapeDtypeStruct) -> Params:
    return trees.map_named(lambda name, leaf: table if name == TABLE else leaf, tree)
