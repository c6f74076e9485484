"""Eight CPU devices for every test, exact float32 products, and parsed flags for Grain."""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

# Before JAX starts: the device count can no longer change afterwards.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Tests compile hundreds of small programs and run each once: skipping most optimisations halves it,
# and so does the older code generator, once more.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What one test has compiled, others and the processes that they start need not compile again.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.TemporaryDirectory(prefix="compiled-")  # gone with this process
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax
import pytest
from absl import flags

jax.config.update("jax_default_matmul_precision", "highest")
# Grain's workers read absl flags, which pytest never parses.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(autouse=True, scope="module")
def old_objects() -> None:
    """What the modules before have left, compiled programs above all, is not looked through again
    by every collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, of the system or of ``playwright install``, for tests marked so."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        path = shutil.which("chromium")
        opened = play.chromium.launch(args=["--no-sandbox"], executable_path=path)
        yield opened
        opened.close()
