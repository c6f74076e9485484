"""50 kinds of bad files: none stops a run, none shifts its order, all are in the ledger.

The same batches and the same ledger whoever loads them, and after the run was killed and resumed.
"""

import itertools
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from bad_files import DECODER_DECIDES, FILE_SYSTEM, READABLE, UNREADABLE, write_corpus
from images import encode, smooth, write_tar

from dinojax.data.folder import FolderSource
from dinojax.data.load import readable, substitutes
from dinojax.data.order import Order, record_indices
from dinojax.data.pipeline import StepBatches, make_loader
from dinojax.data.records import Record
from dinojax.data.source import Source
from dinojax.data.tar import TarSource
from dinojax.runtime.quarantine import Quarantine, read_ledger

GLOBAL_BATCH, CANVAS_PX, SEED = 16, 16, 5
STEPS = 12
"""About two passes over the corpus."""


def is_readable(data: bytes) -> bool:
    try:
        readable(Record(data, "a"), 16)
    except ValueError:
        return False
    return True


BAD = {*UNREADABLE, *FILE_SYSTEM} | {n for n, d in DECODER_DECIDES.items() if not is_readable(d)}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> FolderSource:
    root = write_corpus(tmp_path_factory.mktemp("corpus") / "images", good=40)
    source = FolderSource(root)
    (root / "deleted.jpg").unlink()
    return source


@pytest.fixture(scope="module")
def expected(source) -> list[dict[str, Any]]:
    """The ledger worked out position by position from the names of the bad files alone."""
    size, entries = GLOBAL_BATCH, []
    for position in range(STEPS * size):
        drawn = record_indices([position], len(source), SEED)
        tried = [
            source.record_id(i)
            for i in (*drawn.tolist(), *substitutes(SEED, position, range(len(source))))
        ]
        failed = list(itertools.takewhile(lambda name: name in BAD, tried))
        entries += [
            {
                **{"step": position // size, "slot": position % size, "position": position},
                **{"attempt": i, "id": name, "substitute": tried[len(failed)]},
            }
            for i, name in enumerate(failed)
        ]
    return entries


def order(source: Source) -> Order:
    return Order((len(source),), GLOBAL_BATCH, SEED)


def step_batches(source: Source, **process: int) -> StepBatches:
    return StepBatches(source, order(source), canvas_px=CANVAS_PX, **process)


def run(source: Source, workdir, *, first_step=0, steps=STEPS, **options) -> list[dict[str, Any]]:
    """Batches of a run, entered into its ledger; it stops there without a word to anyone."""
    quarantine = Quarantine(workdir, global_batch=GLOBAL_BATCH, first_step=first_step, budget=1.0)
    with closing(
        make_loader(source, order(source), canvas_px=CANVAS_PX, start_step=first_step, **options)
    ) as loader:
        return list(itertools.islice(quarantine.watch(loader), steps - first_step))


def without_causes(workdir) -> list[dict[str, Any]]:
    entries = read_ledger(workdir)
    assert all(entry.pop("cause") for entry in entries)
    return entries


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        for name in ("canvas", "size", "index", "step"):
            np.testing.assert_array_equal(a[name], b[name])
        assert a["problems"] == b["problems"]


@pytest.mark.parametrize("name", UNREADABLE)
def test_is_unreadable(name):
    assert not is_readable(UNREADABLE[name])


@pytest.mark.parametrize("name", READABLE)
def test_is_odd_but_readable(name):
    assert is_readable(READABLE[name])


def test_the_corpus_is_large_and_a_folder_is_no_record(source):
    assert len(BAD) >= 30
    names = {source.record_id(i) for i in range(len(source))}
    assert names >= BAD | set(READABLE) and not any(n.startswith("folder") for n in names)


def test_ledger_is_exact(source, expected, tmp_path):
    run(source, tmp_path)
    assert without_causes(tmp_path) == expected
    assert len(expected) > len(BAD) and {e["attempt"] for e in expected} >= {0, 1, 2}
    assert {entry["id"] for entry in expected} == BAD


def test_nothing_downstream_shifts(source, tmp_path):
    """Against the same run over files of the same names that are all images."""
    files = {source.record_id(i): encode(smooth(12, 12), "PNG") for i in range(len(source))}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    whole = step_batches(FolderSource(tmp_path))
    broken = step_batches(source)
    for step in range(STEPS):
        found, wanted = broken[step], whole[step]
        replaced = [problem.position % GLOBAL_BATCH for problem in found["problems"]]
        kept = np.setdiff1d(np.arange(GLOBAL_BATCH), replaced)
        np.testing.assert_array_equal(found["index"][kept], wanted["index"][kept])
        for slot, index in enumerate(found["index"].tolist()):
            image = readable(source[index], CANVAS_PX)
            height, width = image.shape[:2]
            assert found["size"][slot].tolist() == [height, width]
            np.testing.assert_array_equal(found["canvas"][slot][:height, :width], image)


@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_change_nothing(source, tmp_path, workers):
    assert_same(
        run(source, tmp_path / "many", num_workers=workers, num_threads=2),
        run(source, tmp_path / "none", num_threads=5),
    )
    assert read_ledger(tmp_path / "many") == read_ledger(tmp_path / "none")


def test_stopped_and_resumed_equals_uninterrupted(source, expected, tmp_path):
    """Stopped at step 8 of which two more were loaded ahead; resumed from the checkpoint of 5."""
    run(source, tmp_path, steps=8)
    with (tmp_path / "quarantine.jsonl").open("a") as file:
        file.write('{"step": 8, "sl')
    run(source, tmp_path, first_step=5)
    assert without_causes(tmp_path) == expected


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_one_ledger(source, expected, tmp_path, hosts):
    """And the same when the second half runs on a single one."""
    size = GLOBAL_BATCH
    for i in range(hosts):
        slots = range(i * size // hosts, (i + 1) * size // hosts)
        process = {"slots": slots, "process_index": i, "process_count": hosts}
        quarantine = Quarantine(tmp_path, global_batch=size, first_step=0, budget=1.0, **process)
        batches = step_batches(source, slots=slots)
        list(quarantine.watch(batches[step] for step in range(STEPS - 3)))
    run(source, tmp_path, first_step=STEPS // 2)
    assert without_causes(tmp_path) == expected


def test_broken_tar_members(tmp_path):
    """Members of bad bytes, and a tar that lost its tail after it was opened."""
    files = UNREADABLE | {f"good_{i}.png": encode(smooth(9, 9), "PNG") for i in range(40)}
    path = write_tar(tmp_path / "images.tar", files)
    source = TarSource(path)
    names = [source.record_id(i) for i in range(len(source))]
    with path.open("r+b") as file:
        file.truncate(path.read_bytes().rindex(b"\x89PNG") + 10)
    seen, lost = set(), set()
    for batch in run(source, tmp_path / "run"):
        seen |= {names[i] for i in batch["index"]}
        lost |= {p.id for p in batch["problems"]}
    assert not seen & set(UNREADABLE) and lost >= set(UNREADABLE) | {"good_39.png"}
    causes = {e["cause"] for e in read_ledger(tmp_path / "run") if e["id"] == "good_39.png"}
    assert len(causes) == 1 and "ends inside 'good_39.png'" in causes.pop()
