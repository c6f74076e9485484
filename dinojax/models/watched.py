"""What the modules of a network return, noted while it runs.

Flax's `capture_intermediates` notes the tensors themselves, and a scan then stacks those of all
layers, as many numbers as a backward pass without rematerialisation keeps. A summary made inside
the scan costs next to nothing.
"""

from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn

from dinojax.typing import Params, PyTree


def apply_watched(
    network: nn.Module,
    variables: dict[str, Params],
    *args: Any,
    note: Callable[[PyTree], PyTree],
    methods: Collection[str],
    **options: Any,
) -> tuple[Any, PyTree]:
    """The output of ``network.apply``, and ``note(result)`` of each call of one of `methods`.

    Notes lie below the module's path and the method's name, one after another; inside a scan they
    have a leading axis of layers.
    """

    def watch(call: Callable[..., Any], args: Any, options: Any, context: Any) -> Any:
        result = call(*args, **options)
        if context.method_name in methods:
            context.module.sow("intermediates", context.method_name, note(result))
        return result

    with nn.intercept_methods(watch):
        output, noted = network.apply(variables, *args, **options, mutable=["intermediates"])
    return output, noted["intermediates"]
