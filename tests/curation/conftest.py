"""FAISS with one thread: several wait for each other for minutes where cores are shared."""

import importlib.util

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(1)
