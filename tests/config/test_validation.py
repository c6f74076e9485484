"""What does not fit is refused, with sizes that work: groups of images, crops on the canvas."""

import re

import pytest

from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.config.validation import validate


def debug(batch: int, draw: int | None, koleo: int | None, topk: int = 1, micro: int = 1) -> Config:
    config = shrink(default_config())
    config.train.micro_batches = micro
    config.train.batch_size, config.train.draw_group_size = batch, draw
    config.dino.koleo_group_size, config.dino.koleo_topk = koleo, topk
    return parse_config(config)


@pytest.mark.parametrize(
    ("sizes", "shards"),
    [
        ({"batch": 8, "draw": 8, "koleo": None}, 1),
        ({"batch": 8, "draw": None, "koleo": None}, 1),
        ({"batch": 8, "draw": 1, "koleo": 8}, 1),
        ({"batch": 16, "draw": 1, "koleo": 2}, 8),
        ({"batch": 32, "draw": 4, "koleo": None}, 8),
        ({"batch": 32, "draw": 2, "koleo": 4, "topk": 3}, 8),
        ({"batch": 24, "draw": 12, "koleo": 6}, 2),
        ({"batch": 32, "draw": 2, "koleo": 4, "micro": 4}, 2),
        # Neighbours are searched across shards, as the 7B's high-resolution recipe does on 256.
        ({"batch": 16, "draw": 1, "koleo": 16}, 2),
        ({"batch": 24, "draw": 4, "koleo": 8}, 2),
        ({"batch": 2048, "draw": 8, "koleo": 16}, 256),
    ],
)
def test_groups_that_fit(sizes, shards):
    validate(debug(**sizes), batch_shards=shards)


@pytest.mark.parametrize(
    ("sizes", "shards", "named", "working"),
    [
        # The whole batch, over several shards.
        ({"batch": 8, "draw": None, "koleo": 4}, 2, "train.draw_group_size=8", [1, 2, 4]),
        ({"batch": 64, "draw": 3, "koleo": 2}, 2, "train.draw_group_size=3", [4, 8, 16, 32]),
        ({"batch": 16, "draw": -1, "koleo": 2}, 2, "train.draw_group_size=-1", [1, 2, 4, 8]),
        # Draws fit.
        ({"batch": 16, "draw": 2, "koleo": 5}, 2, "dino.koleo_group_size=5", [2, 4, 8, 16]),
        ({"batch": 16, "draw": 2, "koleo": 5}, 1, "dino.koleo_group_size=5", [2, 4, 8, 16]),
        ({"batch": 16, "draw": 2, "koleo": -4}, 1, "dino.koleo_group_size=-4", [2, 4, 8, 16]),
        # No neighbour in a group of one: here it is the draw group's size.
        ({"batch": 8, "draw": 1, "koleo": None}, 8, "dino.koleo_group_size=1", [2, 4, 8]),
        ({"batch": 9, "draw": 1, "koleo": 2, "topk": 2}, 1, "dino.koleo_group_size=2", [3, 9]),
    ],
)
def test_groups_that_do_not_fit(sizes, shards, named, working):
    with pytest.raises(ValueError) as error:
        validate(debug(**sizes), batch_shards=shards)
    message, name = str(error.value), named.partition("=")[0]
    draws = name == "train.draw_group_size"
    number = f"a multiple of {shards} batch shards" if draws else "a whole number"
    assert f"batch_size={sizes['batch']} is not {number} of groups of {named}" in message
    larger = f"of more than dino.koleo_topk={sizes.get('topk', 1)} images"
    assert (larger in message) == (not draws)
    assert message.endswith(f": use one of {name}={working}")
    key = name.rpartition(".")[2].partition("_")[0]
    for size in working:
        validate(debug(**{**sizes, key: size}), batch_shards=shards)


@pytest.mark.parametrize(
    ("sizes", "shards", "multiple"),
    [
        ({"batch": 12, "draw": 1, "koleo": 2}, 8, 8),
        ({"batch": 8, "draw": 1, "koleo": 2, "topk": 11}, 4, 16),
        ({"batch": 24, "draw": 3, "koleo": 2, "topk": 3, "micro": 2}, 4, 48),
    ],
)
def test_a_batch_that_no_group_fits(sizes, shards, multiple):
    with pytest.raises(ValueError, match=rf"use a train\.batch_size .* multiple of {multiple}$"):
        validate(debug(**sizes), batch_shards=shards)
    koleo = multiple // (sizes["micro"] * shards) if "micro" in sizes else multiple
    validate(debug(**{**sizes, "batch": multiple, "koleo": koleo}), batch_shards=shards)


@pytest.mark.parametrize(
    ("sizes", "named", "fix"),
    [
        ({"draw": 8, "koleo": 4}, "train.draw_group_size=8", "train.draw_group_size=[1, 2, 4]"),
        ({"draw": 4, "koleo": 8}, "dino.koleo_group_size=8", "dino.koleo_group_size=[2, 4]"),
        ({"draw": 4, "koleo": 32}, "dino.koleo_group_size=32", "dino.koleo_group_size=[2, 4]"),
    ],
)
def test_groups_that_do_not_fit_a_micro_batch(sizes, named, fix):
    """They would without micro-batches."""
    validate(debug(32, **sizes), batch_shards=2)
    with pytest.raises(ValueError) as error:
        validate(debug(32, **sizes, micro=4), batch_shards=2)
    number = "a multiple of train.micro_batches=4 x 2 batch shards"
    assert f"train.batch_size=32 is not {number} of groups of {named}" in str(error.value)
    assert str(error.value).endswith(f": use one of {fix}")


@pytest.mark.parametrize("key", ["micro_batches", "prototype_chunk"])
def test_parts_of_nothing(key):
    config = shrink(default_config())
    config.train[key] = 0
    with pytest.raises(ValueError, match=rf"train\.{key}=0 must be at least 1"):
        validate(parse_config(config), batch_shards=1)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("student.drop_path_rate", 30.0, "must be at least 0 and below 1; use 0.3"),
        ("student.init_std", 0.0, "must be above 0; use 0.02"),
        ("ibot.mask_sample_probability", 1.5, "must lie in 0..1; use 0.5"),
        ("ibot.mask_ratio_min_max", (0.1, 1.2), "must rise within 0..1"),
        ("optim.teacher_temp.end", 0.0, "must be above 0; use 0.07"),
        ("optim.clip_grad", 0.0, "must be above 0; use 3.0"),
        ("dino.head.nlayers", 0, "must be at least 1; use 3"),
        ("train.hang_timeout_s", -1.0, "must be at least 0; 0 switches it off"),
    ],
)
def test_numbers_out_of_range(key, value, words):
    config = shrink(default_config())
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=rf"^{re.escape(key)}=.* {re.escape(words)}"):
        validate(parse_config(config), batch_shards=1)


def test_moments_have_two_dtypes():
    config = shrink(default_config())
    config.optim.moments_dtype = "float16"
    with pytest.raises(ValueError, match=r"optim\.moments_dtype='float16' is unknown; use None"):
        validate(parse_config(config), batch_shards=1)


def test_koleo_needs_a_neighbour():
    with pytest.raises(ValueError, match=r"dino\.koleo_topk=0 must be at least 1"):
        validate(debug(8, 8, 8, topk=0), batch_shards=1)


@pytest.mark.parametrize(
    ("crops", "largest"),
    [
        ({"global_crops_size": 80}, "global_crops_size=80"),
        ({"global_crops_size": (64, 96, 80)}, "global_crops_size=96"),
        ({"gram_teacher_crops_size": 80}, "gram_teacher_crops_size=80"),
        (
            {"global_crops_size": (80, 96), "gram_teacher_crops_size": (112, 64)},
            "gram_teacher_crops_size=112",
        ),
    ],
)
def test_no_crop_is_larger_than_the_canvas(crops, largest):
    """Of any resolution; the advice works, and one pixel less does not."""
    needed = int(largest.partition("=")[2])

    def check(canvas_px: int) -> None:
        config = shrink(default_config())
        config.data.canvas_px = canvas_px
        if "gram_teacher_crops_size" in crops:
            config.gram.use_loss, config.gram.load_ema_step = True, 0
        config.update_from_flattened_dict({f"crops.{name}": value for name, value in crops.items()})
        validate(parse_config(config), batch_shards=1)

    for canvas_px in (64, needed - 1):
        with pytest.raises(ValueError) as error:
            check(canvas_px)
        message = str(error.value)
        assert f"data.canvas_px={canvas_px} is smaller than crops.{largest}, " in message
        assert message.endswith(f"use data.canvas_px={needed}")
    check(needed)


def test_tensor_divides_heads_hidden_features_and_prototypes():
    given = shrink(default_config())
    given.dino.head.n_prototypes, given.ibot.head.n_prototypes = 96, 64
    heads = given.student.num_heads
    validate(parse_config(given), batch_shards=1, tensor=2)
    given.ibot.head.n_prototypes = 66
    with pytest.raises(ValueError, match=r"mesh.tensor=4 .* ibot.*=66; use one of \[1, 2\]"):
        validate(parse_config(given), batch_shards=1, tensor=4)
    with pytest.raises(ValueError, match=rf"mesh.tensor={2 * heads} .* num_heads={heads}"):
        validate(parse_config(given), batch_shards=1, tensor=2 * heads)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"student.arch": "convnext_tiny"}, "'convnext_tiny' has no mask token"),
        ({"student.pos_embed_grid": 4}, "pos_embed_rope_rescale_coords=2.0 is for backbones with"),
        ({"student.dims": (8, 8, 8, 8)}, r"dims=\(8, 8, 8, 8\) is not a field of VisionTransf"),
        ({"ibot.mask_rule": "beit"}, "ibot.mask_rule='beit' is unknown; use one of"),
        ({"ibot.separate_head": False, "ibot.head.nlayers": 2}, "ibot.separate_head=False sends"),
    ],
)
def test_what_a_backbone_or_a_head_cannot_do(keys, words):
    config = default_config()
    config.student.arch = keys.get("student.arch", "vits16")
    config = shrink(config)
    if "student.pos_embed_grid" in keys:
        config.student.pos_embed_rope_rescale_coords = 2.0
    config.update_from_flattened_dict(keys)
    with pytest.raises(ValueError, match=words):
        validate(parse_config(config), batch_shards=1)
