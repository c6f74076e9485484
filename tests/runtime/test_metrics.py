"""Metrics on disk: no duplicates after a resume, no NaN in JSON, no waiting for the device."""

import io
import itertools
import json
import math
import threading
from unittest.mock import Mock, NonCallableMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from dinojax.runtime import metrics
from dinojax.runtime.metrics import Deferred, MetricWriter, truncate_after


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir):
    """All TensorBoard events, file by file: ``u64 length, u32 crc, data, u32 crc``."""
    out = []
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            body = data[at + 12 : at + 12 + length]
            crc = int.from_bytes(data[at + 12 + length : at + 16 + length], "little")
            assert crc == masked_crc32c(body)
            out.append(Event.FromString(body))
            at += 16 + length
    return out


def scalars(workdir):
    return [(e.step, v.tag, v.simple_value) for e in events(workdir) for v in e.summary.value]


def test_writes_both_files(tmp_path):
    with MetricWriter(tmp_path / "run") as writer:
        writer.write(1, {"loss": 2.5, "lr": 0.5})
        assert lines(tmp_path / "run") == [{"step": 1, "loss": 2.5, "lr": 0.5}]  # before closing
        writer.write(1, {"knn": 0.25})
    assert lines(tmp_path / "run")[1:] == [{"step": 1, "knn": 0.25}]
    assert scalars(tmp_path / "run") == [(1, "loss", 2.5), (1, "lr", 0.5), (1, "knn", 0.25)]


def test_pictures_go_to_tensorboard(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    with MetricWriter(tmp_path) as writer:
        writer.write_picture(7, "panels/pca", pixels)
    ((step, value),) = [(e.step, v) for e in events(tmp_path) for v in e.summary.value]
    assert (step, value.tag) == (7, "panels/pca")
    found = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    np.testing.assert_array_equal(found, pixels)


def test_values_that_are_not_finite_are_null(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(3, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    assert lines(tmp_path) == [{"step": 3, "a": None, "b": None, "c": None, "d": 1.0}]
    assert scalars(tmp_path) == [(3, "d", 1.0)]


def test_resuming_drops_what_will_be_written_again(tmp_path):
    with MetricWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": float(step)})
    with MetricWriter(tmp_path, resumed_from=3) as writer:
        writer.write(4, {"loss": 40.0})
    assert [(x["step"], x["loss"]) for x in lines(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    # TensorBoard keeps its files, and is told to forget from step 4 on.
    assert [e.step for e in events(tmp_path) if e.HasField("session_log")] == [0, 4]


def test_starting_from_nothing_drops_everything(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(0, {"knn": 0.1})
    with MetricWriter(tmp_path) as writer:
        writer.write(0, {"knn": 0.2})
    assert lines(tmp_path) == [{"step": 0, "knn": 0.2}]


def test_truncation_drops_a_line_cut_short(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 9}\n{"step": 2}\n{"step": 2, "lo')
    truncate_after(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    path.write_text('{"step": 1}')  # whole, but the next line would be glued to it
    truncate_after(path, 2)
    assert path.read_text() == ""


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.jax, "process_index", lambda: 1)
    with MetricWriter(tmp_path / "run") as writer:
        writer.write(1, {"loss": 1.0})
    assert not (tmp_path / "run").exists()


def test_deferred_is_one_period_late():
    ticks = itertools.count(100.0)
    deferred = Deferred(clock=lambda: next(ticks))
    assert deferred.push(10, {"loss": jnp.float32(0.5)}) == []
    assert deferred.push(20, {"loss": jnp.float32(0.25)}) == [(10, {"loss": 0.5}, 100.0)]
    assert deferred.flush() == [(20, {"loss": 0.25}, 101.0)]
    assert deferred.flush() == []


def test_deferred_does_not_wait_for_what_it_is_given(monkeypatch):
    """Pushing returns while the step still runs; the time is that of its end, not of the push."""
    value, finished = NonCallableMock(spec=jax.Array), threading.Event()

    def device_get(tree):
        assert finished.wait(60)
        return dict.fromkeys(tree, 0.5)

    monkeypatch.setattr(metrics.jax, "device_get", device_get)
    now = 1.0
    deferred = Deferred(clock=lambda: now)
    assert deferred.push(1, {"a": value}) == []
    value.copy_to_host_async.assert_called_once_with()
    now = 2.0
    finished.set()
    assert deferred.push(2, {}) == [(1, {"a": 0.5}, 2.0)]


def test_what_fails_on_the_device_fails_in_the_loop(monkeypatch):
    monkeypatch.setattr(metrics.jax, "device_get", Mock(side_effect=RuntimeError("device lost")))
    deferred = Deferred()
    deferred.push(1, {})
    with pytest.raises(RuntimeError, match="device lost"):
        deferred.push(2, {})
