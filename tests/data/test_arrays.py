"""NumPy arrays: which files, which arrays, and the errors."""

import numpy as np
import pytest

from dinojax.data.arrays import NumpySource

IMAGES = np.arange(4 * 3 * 2 * 3, dtype=np.uint8).reshape(4, 3, 2, 3)


def npz(path, **arrays):
    np.savez(path / "x.npz", **arrays)
    return path / "x.npz"


def folder(path, **arrays):
    for name, array in arrays.items():
        np.save(path / name, array)
    return path


@pytest.fixture(params=[npz, folder])
def write(request, tmp_path):
    return lambda **arrays: request.param(tmp_path, **arrays)


def test_images_alone(write):
    source = NumpySource(write(images=IMAGES))
    assert len(source) == 4 and source.class_names is None
    assert source.record_id(3) == "00000003"
    for i in range(4):
        record = source[i]
        assert np.array_equal(record.image, IMAGES[i]) and record.label is None
        assert record.segmentation is None and record.depth is None


def test_one_npy(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    assert np.array_equal(NumpySource(tmp_path / "x.npy")[2].image, IMAGES[2])


def test_grey_images_have_one_channel(write):
    assert NumpySource(write(images=IMAGES[..., 0]))[1].image.shape == (3, 2, 1)


def test_fortran_order(write):
    source = NumpySource(write(images=np.asfortranarray(IMAGES)))
    assert np.array_equal(source[3].image, IMAGES[3])


def test_records_are_copies(write):
    source = NumpySource(write(images=IMAGES))
    source[0].image[:] = 0
    assert np.array_equal(source[0].image, IMAGES[0])


@pytest.mark.parametrize("labels", [[1, 0, -1, 2], [[1], [0], [-1], [2]]])
def test_labels(write, labels):
    source = NumpySource(write(images=IMAGES, labels=np.array(labels)))
    assert [source[i].label for i in range(4)] == [1, 0, None, 2]
    assert source.class_names == ["0", "1", "2"]


def test_images_stay_on_disk(write):
    source = NumpySource(write(images=IMAGES))
    assert isinstance(source._arrays["images"], np.memmap)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": np.arange(4)}, r"holds no array 'images' with at least 1 image"),
        ({"images": IMAGES[:0]}, r"holds no array 'images' with at least 1 image"),
        ({"images": IMAGES / 255}, r"holds 'images' as float64 \[4, 3, 2, 3\]; give uint8"),
        ({"images": IMAGES[0, 0]}, r"holds 'images' as uint8 \[2, 3\]; give uint8 \[N, H, W"),
        ({"images": IMAGES, "labels": np.zeros(4)}, r"'labels' as float64 .*; give integers"),
        ({"images": IMAGES, "labels": np.zeros((4, 5), int)}, r"'labels' as int64 \[4, 5\]"),
        ({"images": IMAGES, "labels": np.arange(3)}, r"holds 3 labels for 4 images; give as many"),
        ({"images": IMAGES, "depth": np.zeros((4, 3, 2))}, r"'depth' as float64 .*; give float32"),
        (
            {"images": IMAGES, "labels": np.arange(4), "class_names": np.array(["a", "b"])},
            r"has labels up to 3 and 2 different names",
        ),
        (
            {"images": IMAGES, "labels": np.zeros(4, int), "class_names": np.array(["a", "a"])},
            r"1 different names of classes in a list of 2; give one name per class",
        ),
    ],
)
def test_arrays_that_do_not_fit(write, arrays, words):
    with pytest.raises(ValueError, match=words):
        NumpySource(write(**arrays))


def test_files_that_are_none(tmp_path):
    np.savez_compressed(tmp_path / "z.npz", images=IMAGES)
    with pytest.raises(ValueError, match=r"z.npz is compressed, .*; write it with numpy.savez"):
        NumpySource(tmp_path / "z.npz")
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"o.npy is not a plain .npy .*; write it with numpy.sa"):
        NumpySource(tmp_path / "o.npy")
    np.savez(tmp_path / "o.npz", images=np.array([{}]))
    with pytest.raises(ValueError, match=r"o.npz holds Python objects in 'images.npy'; store num"):
        NumpySource(tmp_path / "o.npz")
    (tmp_path / "t.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"t.npz is not an .npz .*; write it with numpy.savez"):
        NumpySource(tmp_path / "t.npz")
    whole = npz(tmp_path, images=IMAGES).read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[:200])
    with pytest.raises(ValueError, match=r"x.npz is not an .npz"):
        NumpySource(tmp_path / "x.npz")
