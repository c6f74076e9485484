"""The least sharding that fits, the same for `train` and `plan`."""

import functools

import jax
import pytest

from dinojax.config import default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.planning.mesh_choice import ROOM, choose_mesh
from dinojax.planning.topologies import GIB
from dinojax.training.mesh import run_mesh


@functools.cache
def config(**overrides):
    config = default_config()
    config.student.arch = "vits16"
    config.student.remat = "full"
    config.train.batch_size, config.train.draw_group_size = 256, 8
    for name, value in overrides.items():
        *parents, last = name.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return parse_config(config)


def test_nothing_is_split_where_everything_fits():
    choice = choose_mesh(config(), 8, 1000 * GIB)
    assert choice.shape == (8, 1, 1)
    assert "leaves room" in choice.reason


def test_fsdp_grows_until_it_fits():
    """Memory in which one split less leaves no room."""
    shapes = []
    for fsdp in (1, 2, 4):
        needed = choose_mesh(config(mesh__fsdp=fsdp), 8, None).memory.total
        choice = choose_mesh(config(), 8, int(needed / ROOM) - 1)
        assert choice.memory.total < needed
        shapes.append(choice.shape)
    assert shapes == [(4, 2, 1), (2, 4, 1), (1, 8, 1)]


def test_groups_that_do_not_fill_the_devices_take_tensor():
    """Of 8 groups on 16 devices; heads and prototypes divide."""
    given = config(train__batch_size=64, train__draw_group_size=8)
    assert choose_mesh(given, 16, None).shape == (8, 1, 2)
    fixed = config(train__batch_size=64, train__draw_group_size=8, mesh__tensor=1)
    with pytest.raises(ValueError, match=r"is not a multiple of 16 batch shards of groups of"):
        choose_mesh(fixed, 16, None)


def test_given_sizes_are_kept():
    given = config(mesh__data=1, mesh__fsdp=-1, mesh__tensor=2)
    choice = choose_mesh(given, 8, 1)
    assert choice.shape == (1, 4, 2)
    assert choice.reason == "given by the configuration"
    assert choose_mesh(config(mesh__tensor=2), 8, None).shape == (4, 1, 2)
    with pytest.raises(ValueError, match=r"mesh data=3, fsdp=1, tensor=1 does not fit 8"):
        choose_mesh(config(mesh__data=3, mesh__fsdp=1, mesh__tensor=1), 8, None)
    with pytest.raises(ValueError, match=r"no mesh of 8 devices has mesh.data=3"):
        choose_mesh(config(mesh__data=3), 8, None)


def test_only_data_spans_slices():
    whole = choose_mesh(config(mesh__fsdp=8), 8, None).memory.total
    tight = choose_mesh(config(), 8, whole)
    assert tight.shape.fsdp == 8
    assert "most of what is there" in tight.reason
    with pytest.raises(ValueError, match="GiB more than"):
        choose_mesh(config(), 8, whole, slices=2)


def test_too_large_says_how_much_is_missing():
    least = choose_mesh(config(mesh__fsdp=8), 8, None).memory.total
    with pytest.raises(
        ValueError,
        match=r"train.batch_size=256 is predicted to need .* GiB per device on data=1 x fsdp=8 x "
        r"tensor=1: 1.00 GiB more .* use train.micro_batches=2, train.prototype_chunk=4096",
    ):
        choose_mesh(config(mesh__tensor=1), 8, least - GIB)


def test_train_asks_the_same(caplog):
    """On devices of unknown memory nothing is split; the choice is in the log."""
    small = shrink(default_config())
    small.train.batch_size, small.train.draw_group_size = 16, 2
    given = parse_config(small)
    with caplog.at_level("INFO"):
        mesh = run_mesh(given)
    expected = choose_mesh(given, jax.device_count(), None)
    assert tuple(mesh.shape.values()) == expected.shape == (8, 1, 1)
    assert expected.reason in caplog.text
