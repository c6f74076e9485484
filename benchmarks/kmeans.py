"""Our k-means and FAISS's on the same rows, from the same centres, in turn on one hardware thread.

    python benchmarks/kmeans.py [--rows=100000] [--width=384] [--clusters=1000] [--iterations=5] \
        [--devices=8]

Processor seconds per iteration do not depend on what else runs; those of the clock stand beside
them. Ours compiles first, and that is reported apart. Inertias are of the final centres, both by
FAISS's exact search. With several `--devices`, all on that thread, the same work is divided among
them: what it costs more is the price of dividing. Prints one JSON object.
"""

import argparse
import json
import os
import time
from typing import Any

import faiss
import jax
import jax.numpy as jnp
import numpy as np

from dinojax.curation import kmeans
from dinojax.curation.parts import place
from dinojax.mesh import make_mesh


def make_rows(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Unit rows around twice as many directions as there are in a thousand of them."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((max(count // 50, 1), width), np.float32)
    rows = means[rng.integers(0, len(means), count)]
    rows += 0.8 * rng.standard_normal(rows.shape, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def timed(iterations: int, started: tuple[float, float]) -> dict[str, float]:
    cpu, clock = time.process_time() - started[0], time.perf_counter() - started[1]
    return {"cpu_s_per_iteration": cpu / iterations, "clock_s_per_iteration": clock / iterations}


def now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def inertia(rows: np.ndarray, centers: np.ndarray) -> float:
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(np.ascontiguousarray(centers))  # type: ignore[call-arg]
    squares, _ = index.search(rows, 1)  # type: ignore[call-arg]
    return float(squares.sum(dtype=np.float64))


def run_ours(rows: np.ndarray, first: np.ndarray, iterations: int) -> tuple[Any, np.ndarray]:
    chunk = place(rows)
    start = kmeans.begin(jnp.asarray(first), kmeans.largest_coordinate(chunk))
    begun = now()
    jax.block_until_ready(list(kmeans.lloyd(lambda: [chunk], start, 1)))
    first_s = time.perf_counter() - begun[1]
    begun = now()
    *_, state = kmeans.lloyd(lambda: [chunk], start, iterations)
    jax.block_until_ready(state)
    return timed(iterations, begun) | {"first_iteration_s": first_s}, np.asarray(state.centers)


def run_faiss(rows: np.ndarray, first: np.ndarray, iterations: int) -> tuple[Any, np.ndarray]:
    # By default it clusters 256 rows per centre only.
    whole = {"max_points_per_centroid": len(rows), "min_points_per_centroid": 1}
    theirs = faiss.Kmeans(rows.shape[1], len(first), niter=iterations, **whole)
    begun = now()
    theirs.train(rows, init_centroids=first)
    assert theirs.centroids is not None  # it is trained
    return timed(iterations, begun), theirs.centroids


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--devices", type=int, default=1, help="CPU devices that share the rows")
    args = parser.parse_args()
    # Both start their threads later, as many as there are processors for them.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    faiss.omp_set_num_threads(1)
    jax.config.update("jax_num_cpu_devices", args.devices)
    jax.set_mesh(make_mesh())
    rows = make_rows(args.rows, args.width)
    first = rows[np.random.default_rng(1).choice(len(rows), args.clusters, replace=False)]
    products = 2 * args.rows * args.clusters * args.width
    result: dict[str, Any] = vars(args) | {"faiss": faiss.__version__, "jax": jax.__version__}
    for name, run in (("ours", run_ours), ("theirs", run_faiss)):
        figures, centers = run(rows, first, args.iterations)
        figures["gflops_per_cpu_s"] = products / figures["cpu_s_per_iteration"] / 1e9
        figures["inertia"] = inertia(rows, centers)
        result[name] = figures
    ours, theirs = result["ours"], result["theirs"]
    result["speed_ratio"] = theirs["cpu_s_per_iteration"] / ours["cpu_s_per_iteration"]
    result["inertia_ratio"] = ours["inertia"] / theirs["inertia"]
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
