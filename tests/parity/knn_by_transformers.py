"""CLS of images by stock transformers: ``python knn_by_transformers.py FOLDER IMAGES OUT``."""

import sys
import warnings

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from parity.torchvision_operators import declare_torchvision_operators

    declare_torchvision_operators()
    from transformers import AutoModel

folder, images, out = sys.argv[1:]
model = AutoModel.from_pretrained(folder).eval()
found = []
with torch.no_grad():
    for batch in np.array_split(np.load(images), 8):
        found.append(model(torch.from_numpy(batch)).last_hidden_state[:, 0].numpy())
np.save(out, np.concatenate(found))
assert "jax" not in sys.modules and "dinojax" not in sys.modules
