"""Batches by step: the same records, bit for bit, for every start, host count and worker count."""

import signal
import subprocess
import sys
import textwrap
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from images import ArraySource, encode, smooth, write_folder, write_tar

from dinojax.data import pipeline
from dinojax.data.folder import FolderSource
from dinojax.data.order import Order, record_indices
from dinojax.data.pipeline import StepBatches, make_loader, sequential_batches
from dinojax.data.prefetch import iterate
from dinojax.data.tar import TarSource


def plain(source, global_batch=8, seed=3):
    """The order of a single source."""
    return Order((len(source),), global_batch, seed)


def take(count, source, **options):
    with closing(make_loader(source, plain(source), canvas_px=16, **options)) as loader:
        return list(islice(loader, count))


def assert_same(first, second):
    assert [set(batch) for batch in first] == [set(batch) for batch in second]
    for a, b in zip(first, second, strict=True):
        assert type(a["step"]) is type(b["step"]) is int
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], strict=name != "step")


def run_script(path):
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, str(path)],
        env={"PYTHONPATH": f"{root}:{root / 'tests'}", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_batch_holds_the_records_of_its_positions():
    batch = take(4, ArraySource(11))[3]
    assert batch["step"] == 3 and batch.pop("problems") == ()
    np.testing.assert_array_equal(batch["index"], record_indices(range(24, 32), 11, seed=3))
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items() if k != "step"} == {
        "canvas": ((8, 16, 16, 3), "uint8"),
        "size": ((8, 2), "int32"),
        "index": ((8,), "int64"),
    }
    for canvas, (height, width), index in zip(
        batch["canvas"], batch["size"], batch["index"], strict=True
    ):
        assert (height, width) == (2 + index % 5, 3)
        assert (canvas[:height, :width] == index + 1).all()
        assert canvas.sum() == (index + 1) * height * width * 3


def test_starting_later_gives_the_same_batches():
    whole = take(7, ArraySource(11))
    assert_same(take(4, ArraySource(11), start_step=3), whole[3:])
    batches = StepBatches(ArraySource(11), plain(ArraySource(11)), canvas_px=16)
    assert_same([batches[5]], whole[5:6])
    far = take(1, ArraySource(11), start_step=10**9)[0]
    np.testing.assert_array_equal(
        far["index"], record_indices(range(8 * 10**9, 8 * 10**9 + 8), 11, 3)
    )


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_concatenate_to_the_global_batch(hosts):
    whole = take(3, ArraySource(11))
    own = 8 // hosts
    parts = [take(3, ArraySource(11), slots=range(own * i, own * i + own)) for i in range(hosts)]
    for step, batch in enumerate(whole):
        for name in ("canvas", "size", "index"):
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, batch[name])


def test_threads_and_prefetch_change_nothing():
    whole = take(5, ArraySource(11), num_threads=1, prefetch_mb=0)
    assert_same(take(5, ArraySource(11), num_threads=7, prefetch_mb=100), whole)


@pytest.mark.parametrize(("prefetch_mb", "ahead"), [(2, 1), (3, 2)])
def test_prefetch_counts_the_canvases_of_this_host(prefetch_mb, ahead, monkeypatch):
    """Three of 500 x 500 pixels of 2 channels: 1.5 MB a batch."""
    handed_on = []

    def watched(batches, ahead, *rest):
        handed_on.append(ahead)
        return iterate(batches, ahead, *rest)

    monkeypatch.setattr(pipeline, "iterate", watched)
    source = ArraySource(12)
    order, options = plain(source, 12), {"canvas_px": 500, "channels": 2, "slots": range(3, 6)}
    make_loader(source, order, prefetch_mb=prefetch_mb, **options)
    assert handed_on == [ahead]


def test_workers_change_nothing(tmp_path):
    """Real files through spawned processes, from the middle of the run."""
    files = {f"{c}/{i}.jpg": encode(smooth(20 + i, 30 + 9 * c)) for c in range(3) for i in range(7)}
    source = TarSource(write_tar(tmp_path / "images.tar", files))
    expected = take(5, source, start_step=2)
    assert_same(take(5, source, start_step=2, num_workers=2), expected)


def test_workers_end_without_noise(tmp_path):
    """A plain script: flags never parsed, batches alive at exit."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from contextlib import closing
            from images import ArraySource
            from dinojax.data.order import Order
            from dinojax.data.pipeline import make_loader

            if __name__ == "__main__":
                options = dict(canvas_px=8, num_workers=2, num_threads=1)
                with closing(make_loader(ArraySource(9), Order((9,), 4, 0), **options)) as loader:
                    batches = [next(loader) for _ in range(3)]
                print(batches[2]["step"])
            """
        )
    )
    done = run_script(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_workers_die_with_a_killed_parent(tmp_path):
    """The pipe that parent and workers share closes only when all of them are gone."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal
            from images import ArraySource
            from dinojax.data.order import Order
            from dinojax.data.pipeline import make_loader

            if __name__ == "__main__":
                options = dict(canvas_px=8, num_workers=2, num_threads=1)
                loader = make_loader(ArraySource(9), Order((9,), 4, 0), **options)
                next(loader)
                os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    assert run_script(script).returncode == -signal.SIGKILL


def test_unreadable_records_are_replaced_and_named(tmp_path):
    files = {"cat/broken.jpg": b"\xff\xd8\xff nothing", "cat/good.png": encode(smooth(9, 9), "PNG")}
    (batch,) = take(1, FolderSource(write_folder(tmp_path, files)), start_step=5)
    np.testing.assert_array_equal(batch["canvas"][:, :9, :9], np.tile(smooth(9, 9), (8, 1, 1, 1)))
    assert batch["index"].tolist() == [1] * 8
    firsts = [p for p in batch["problems"] if p.attempt == 0]
    drawn = record_indices(range(40, 48), 2, seed=3)
    assert [p.position for p in firsts] == (40 + np.flatnonzero(drawn == 0)).tolist()
    for problem in batch["problems"]:
        assert (problem.id, problem.substitute) == ("cat/broken.jpg", "cat/good.png")
        assert problem.cause.startswith("record 'cat/broken.jpg' cannot be decoded")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"slots": ()}, r"slots=\(\) must be distinct ones of global_batch=8; use range\(8\)"),
        ({"slots": (0, 8)}, r"slots=\(0, 8\) must be distinct ones of global_batch=8"),
        ({"slots": (-1, 3)}, r"slots=\(-1, 3\) must be"),
        ({"slots": (3, 3)}, r"slots=\(3, 3\) must be"),
        ({"start_step": -1}, "start_step=-1 must be at least 0; use 0"),
        ({"num_workers": -1}, "num_workers=-1 must be at least 0; use 0"),
        ({"prefetch_mb": -1}, "prefetch_mb=-1 must be at least 0; use 0"),
        ({"canvas_px": 0}, "canvas_px=0 must be at least 1; use 512"),
    ],
)
def test_errors_come_before_the_first_batch(options, message):
    source = ArraySource(11)
    with pytest.raises(ValueError, match=message):
        make_loader(source, plain(source), **{"canvas_px": 16, **options})


def test_order_of_another_source():
    with pytest.raises(ValueError, match=r"sizes=\(12,\) do not add up to the 11 records"):
        make_loader(ArraySource(11), plain(ArraySource(12)), canvas_px=16)


def test_sequential_is_one_pass_in_order_with_the_last_batch_filled_up():
    batches = list(sequential_batches(ArraySource(10), 4, 8))
    assert [batch["canvas"].shape for batch in batches] == [(4, 8, 8, 3)] * 3
    assert [batch["valid"].tolist() for batch in batches[1:]] == [
        [True] * 4,
        [True, True, False, False],
    ]
    joined = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    assert joined["canvas"][:, 0, 0, 0].tolist() == [*range(1, 11), 0, 0]
    assert joined["label"].tolist() == [0, 1] * 5 + [-1, -1]
    assert joined["label"].dtype == np.int32 and joined["valid"].dtype == bool
    assert joined["size"][10:].tolist() == [[8, 8]] * 2


def test_sequential_without_labels(tmp_path):
    source = FolderSource(write_folder(tmp_path, {"a.png": encode(smooth(8, 8), "PNG")}))
    (batch,) = sequential_batches(source, 1, 8)
    assert batch["label"].tolist() == [-1] and batch["valid"].tolist() == [True]


def test_sequential_leaves_unreadable_records_out(tmp_path):
    files = {"a/0.png": encode(smooth(8, 8), "PNG"), "a/1.png": b"", "b/2.png": b"junk"}
    source = FolderSource(write_folder(tmp_path, files))
    (batch,) = sequential_batches(source, 4, 8)
    assert batch["valid"].tolist() == [True, False, False, False]
    assert batch["label"].tolist() == [0, -1, -1, -1] and batch["size"].tolist() == [[8, 8]] * 4
    assert not batch["canvas"][1:].any()
    assert [(p.position, p.id, p.substitute) for p in batch["problems"]] == [
        (1, "a/1.png", None),
        (2, "b/2.png", None),
    ]


def test_sequential_can_be_left_early():
    batches = sequential_batches(ArraySource(100), 2, 8)
    next(batches)
    batches.close()
    with pytest.raises(ValueError, match=r"batch=0 must be at least 1; use 64"):
        sequential_batches(ArraySource(1), 0, 8)
