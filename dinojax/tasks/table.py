"""All tasks, by name."""

from collections.abc import Sequence

from dinojax.tasks.correspondence import CORRESPONDENCE
from dinojax.tasks.depth import DEPTH
from dinojax.tasks.discovery import DISCOVERY
from dinojax.tasks.fewshot import FEWSHOT
from dinojax.tasks.knn import KNN
from dinojax.tasks.linear import LINEAR
from dinojax.tasks.logistic import LOGISTIC
from dinojax.tasks.propagation import PROPAGATION
from dinojax.tasks.retrieval import RETRIEVAL
from dinojax.tasks.segmentation import SEGMENTATION
from dinojax.tasks.task import Task

TASKS: dict[str, Task] = {
    "knn": KNN,
    "logistic": LOGISTIC,
    "linear": LINEAR,
    "fewshot": FEWSHOT,
    "retrieval": RETRIEVAL,
    "segmentation": SEGMENTATION,
    "depth": DEPTH,
    "correspondence": CORRESPONDENCE,
    "discovery": DISCOVERY,
    "propagation": PROPAGATION,
}


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises ValueError: none, or one that is not in `TASKS`."""
    unknown = [name for name in tasks if name not in TASKS]
    if unknown or not tasks:
        raise ValueError(f"--tasks={','.join(tasks)}: use one or several of {', '.join(TASKS)}")
