"""Pictures of the EMA teacher during training: of the state as it is, of several students, at the
cadence that the configuration asks for."""

import jax
import numpy as np
import pytest
from trained_runs import make_run, small_config

from dinojax.build.panels import make_panels
from dinojax.config.validation import validate
from dinojax.data.open import open_source
from dinojax.data.subset import Subset
from dinojax.data.threads import StorageError
from dinojax.mesh import make_mesh
from dinojax.ssl.students import Students

PANELS = {"panels__every_steps": 1, "panels__images": 2, "panels__image_px": 16}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The drawing function and the state of a run."""
    config = small_config(**PANELS)
    state = jax.device_put(make_run(tmp_path_factory.mktemp("run"), config))
    mesh = make_mesh(1, 1, devices=jax.devices()[:1])
    return make_panels(config, open_source("scenes:8"), mesh), state


def test_the_panels(drawn):
    """Another teacher, another picture; the student is not looked at."""
    draw, state = drawn
    found = draw(state)
    assert found.keys() == {"pca", "similarity", "norms", "attention"}
    assert all(p.ndim == 3 and p.dtype == np.uint8 for p in found.values())
    same = draw(state._replace(student=None))
    other = draw(state._replace(teacher=jax.tree.map(lambda leaf: -leaf, state.teacher)))
    for name in found:
        np.testing.assert_array_equal(found[name], same[name])
        assert other[name].shape == found[name].shape and (other[name] != found[name]).any()


class Broken(Subset):
    """Whose first record cannot be read."""

    def __getitem__(self, index: int):
        if index == 0:
            raise ValueError("broken")
        return super().__getitem__(index)


def test_unreadable_records_are_left_out(caplog):
    config, mesh = small_config(**PANELS), make_mesh(1, 1, devices=jax.devices()[:1])
    source = Broken(open_source("scenes:8"), np.arange(2))
    assert make_panels(config, source, mesh) is not None and "is left out: broken" in caplog.text
    assert make_panels(config, Broken(source, np.arange(1)), mesh) is None
    assert make_panels(small_config(), source, mesh) is None  # by default there are none


def test_a_storage_that_fails_is_no_unreadable_record():
    class Gone(Subset):
        def __getitem__(self, index: int):
            raise TimeoutError("gone")

    source, mesh = open_source("scenes:8"), make_mesh(1, 1, devices=jax.devices()[:1])
    with pytest.raises(StorageError, match="for a reason that is not the file's: gone"):
        make_panels(small_config(**PANELS), Gone(source, np.arange(2)), mesh)


def test_several_students_have_their_own(monkeypatch):
    from dinojax.build import panels as build_panels

    monkeypatch.setattr(build_panels, "_of_one", lambda config, *_: lambda state: {"pca": state})
    config = small_config(**PANELS, distillation__students=(("a", ()), ("b", ())))
    draw = make_panels(config, open_source("scenes:8"), make_mesh(1, 8))
    one, two = np.zeros((1, 1, 3)), np.ones((1, 1, 3))
    state = Students(np.zeros(()), {"a": one, "b": two}, {})  # type: ignore[arg-type]
    assert draw is not None and draw(state) == {"a/pca": one, "b/pca": two}


def test_sizes_are_checked():
    with pytest.raises(ValueError, match=r"panels\.image_px=20 is not a multiple of patch_size=8"):
        validate(small_config(**{**PANELS, "panels__image_px": 20}), batch_shards=1)
    with pytest.raises(ValueError, match=r"panels\.images=0"):
        validate(small_config(panels__images=0), batch_shards=1)
