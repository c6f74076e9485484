"""Damaged files end in an error that names the file, or hold what they held before."""

import jax
import numpy as np
import pytest
from layouts import LAYOUTS, random_params, write_layout
from mutations import MUTATIONS, mutated
from small_models import add_presets

from dinojax import mesh as meshes
from dinojax.backbones.opened import fingerprint_of_params
from dinojax.backbones.released import FINGERPRINT, open_released
from dinojax.models.presets import PRESETS
from dinojax.precision import get_precision

QUICK, ALL = 50, 500


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each layout with the fingerprint that exports carry, and its parameters."""
    patch = pytest.MonkeyPatch()
    add_presets(patch)
    folder = tmp_path_factory.mktemp("files")
    backbone = PRESETS["small16"].build(get_precision("float32"))
    params = random_params(backbone)
    said = {FINGERPRINT: fingerprint_of_params(params), "arch": "small16", "format": "pt"}
    written = {
        layout: write_layout(folder / f"{layout}.safetensors", layout, backbone, params, **said)
        for layout in LAYOUTS
    }
    yield {layout: path.read_bytes() for layout, path in written.items()}, params
    patch.undo()


def outcome(path, params) -> str:
    """What becomes of a file."""
    mesh = meshes.make_mesh(1, 1, devices=jax.devices()[:1])
    try:
        with jax.set_mesh(mesh):
            found = open_released(str(path), "small16").read(mesh)
    except ValueError as error:
        assert str(path) in str(error), error
        return "refused"
    jax.tree.map(np.testing.assert_array_equal, found, params)
    return "the same"


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(QUICK), id="quick"),
        pytest.param(range(QUICK, ALL), id="all", marks=pytest.mark.slow),
    ],
)
def test_damaged_files(files, tmp_path, seeds):
    whole, params = files
    path, found = tmp_path / "x.safetensors", []
    for seed in seeds:
        layout = LAYOUTS[seed // len(MUTATIONS) % len(LAYOUTS)]
        how, data = mutated(seed, whole[layout])
        path.write_bytes(data)
        try:
            found.append((how, outcome(path, params)))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {how} of a {layout} file: {error!r}") from error
    refused = [how for how, result in found if result == "refused"]
    assert len(refused) > 0.7 * len(found)
    assert {"truncated", "transposed", "scaled", "dropped", "doubled"} <= {*refused}
    same = {how for how, result in found if result == "the same"}
    # (A constant may be dropped, and where no matrix is square its shape alone is turned.)
    assert same & {"truncated", "appended", "scaled", "doubled"} == set()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whole_files_are_read(files, tmp_path, layout):
    path = tmp_path / "x.safetensors"
    path.write_bytes(files[0][layout])
    assert outcome(path, files[1]) == "the same"
