"""torchvision as transformers and timm import it, also beside another torch than its own."""

import functools


@functools.cache
def declare_torchvision_operators() -> object:
    """Schemas of the operators that torchvision registers shapes for while it is imported.

    Beside a CPU torch its compiled library does not load, and the import fails with "operator
    torchvision::nms does not exist". The returned library must stay alive; the cache holds it.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return torchvision
    from torch import library

    operators = library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return operators
