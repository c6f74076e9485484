"""Which kind of device a program is traced for."""

import jax


def platform() -> str:
    """``"tpu"``, ``"gpu"`` or ``"cpu"``: that of the mesh in use, else of the default devices.

    A mesh may be of devices that are not there: a program compiled ahead of time for TPUs gets
    their kernels on any machine.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
