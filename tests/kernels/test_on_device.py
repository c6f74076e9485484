"""A program is traced for the devices of the mesh in use, there or not."""

import jax
from jax.sharding import AbstractDevice, AbstractMesh

from dinojax.kernels.on_device import platform


def test_the_mesh_decides():
    assert platform() == jax.default_backend() == "cpu"
    chip = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((4,), ("data",), abstract_device=chip)):
        assert platform() == "tpu"
        assert jax.eval_shape(lambda: len(platform()) * jax.numpy.ones(2)).shape == (2,)
