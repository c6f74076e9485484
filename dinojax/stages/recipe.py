"""The configuration of a stage as `dinojax.train` takes it: ``--config=THIS_FILE:FOLDER``.

The pipeline has left it in the folder of the stage, with paths in place of other stages' names.
"""

import ml_collections

from dinojax.config import from_dict
from dinojax.config.parse import to_config_dict
from dinojax.stages.record import FILE, read_record


def get_config(folder: str) -> ml_collections.ConfigDict:
    record = read_record(folder)
    if record is None:
        raise ValueError(f"{folder} has no {FILE} of a stage; start its pipeline")
    return to_config_dict(from_dict(record["given"]["config"])).lock()
