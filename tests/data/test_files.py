"""Folders and tars of images: what is a record, in which order, what goes with it, the errors."""

import os
import pickle
import resource
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from absl import logging
from images import as_npy, as_tiff, bands, encode, write_folder, write_tar
from PIL import Image

from dinojax.data.decode import decode_image
from dinojax.data.file_names import IMAGE_SUFFIXES
from dinojax.data.folder import FolderSource
from dinojax.data.handles import Handles
from dinojax.data.source import Source
from dinojax.data.tar import TarSource

# Neither source decodes, so any bytes will do. Order of writing is not the order of names.
FILES = {
    "dog/2.JPG": b"dog two",
    "cat/b/1.png": b"cat one",
    "cat/a.webp": b"cat a",
    "dog/10.jpeg": b"dog ten",
    "dog/notes.txt": b"no image",
    "cat/._a.webp": b"macOS resource fork",
}
IDS = ["cat/a.webp", "cat/b/1.png", "dog/10.jpeg", "dog/2.JPG"]


def write(kind, tmp_path, files):
    if kind is FolderSource:
        return write_folder(tmp_path / "images", files)
    return write_tar(tmp_path / "images.tar", files)


def white_image(name: str) -> bytes:
    """White in the format that the name promises."""
    suffix = name.rpartition(".")[2]
    image = np.full((6, 8, 3), 255, np.uint8)
    if suffix == "npy":
        return as_npy(image)
    formats = {"jpg": "JPEG", "jfif": "JPEG", "tif": "TIFF"}
    formats |= dict.fromkeys(("ppm", "pgm", "pbm"), "PPM")
    mode = {"pgm": "L", "pbm": "1"}.get(suffix, "RGB")
    return encode(Image.fromarray(image).convert(mode), formats.get(suffix, suffix))


@pytest.mark.parametrize("kind", [FolderSource, TarSource])
class TestBoth:
    def test_records(self, kind, tmp_path):
        source = kind(write(kind, tmp_path, FILES))
        assert isinstance(source, Source)
        assert len(source) == 4
        assert source.class_names == ["cat", "dog"]
        records = [source[i] for i in range(4)]
        assert [r.id for r in records] == IDS == [source.record_id(i) for i in range(4)]
        assert [r.label for r in records] == [0, 0, 1, 1]
        assert [r.image for r in records] == [FILES[name] for name in IDS]

    def test_flat_has_no_labels(self, kind, tmp_path):
        source = kind(write(kind, tmp_path, {"b.jpg": b"b", "a.jpg": b"a"}))
        assert source.class_names is None
        assert [(source[i].id, source[i].label) for i in range(2)] == [
            ("a.jpg", None),
            ("b.jpg", None),
        ]

    def test_image_beside_class_folders_has_no_label(self, kind, tmp_path):
        source = kind(write(kind, tmp_path, {"cat/a.jpg": b"a", "z.jpg": b"z"}))
        assert source.class_names == ["cat"]
        assert [source[i].label for i in range(2)] == [0, None]

    def test_pickles(self, kind, tmp_path):
        source = pickle.loads(pickle.dumps(kind(write(kind, tmp_path, FILES))))
        assert source[3].image == b"dog two" and source.class_names == ["cat", "dog"]

    def test_reads_from_many_threads(self, kind, tmp_path):
        files = {f"{i:03d}.jpg": bytes([i]) * 1000 for i in range(100)}
        source = kind(write(kind, tmp_path, files))
        with ThreadPoolExecutor(8) as pool:
            records = list(pool.map(source.__getitem__, list(range(100)) * 3))
        assert all(r.image == files[r.id] for r in records)

    def test_index_outside(self, kind, tmp_path):
        source = kind(write(kind, tmp_path, FILES))
        for index in (-1, 4):
            with pytest.raises(IndexError, match=rf"index={index} must lie in 0..3"):
                source[index]

    def test_missing(self, kind, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere.* is not a .*; give a"):
            kind(tmp_path / "nowhere.tar")

    def test_empty(self, kind, tmp_path):
        path = write(kind, tmp_path, {"readme.txt": b""})
        with pytest.raises(
            ValueError, match=r"images.* holds no image .*\.jpg .*\.webp .*\.npy\); .*give"
        ):
            kind(path)

    def test_images_of_every_format(self, kind, tmp_path):
        five = bands(6, 8, 5)
        names = [f"{i:02d}{suffix}" for i, suffix in enumerate(IMAGE_SUFFIXES)]
        files = {name: white_image(name) for name in names}
        files |= {"x.TIFF": as_tiff(five), "y.NPY": as_npy(five)}
        source = kind(write(kind, tmp_path, files))
        records = [source[i] for i in range(len(source))]
        assert [record.id for record in records] == [*names, "x.TIFF", "y.NPY"]
        for record in records[:-2]:
            pixels = decode_image(record.image, record.id)
            assert pixels.shape == (6, 8, 3) and pixels.min() >= 254
        for record in records[-2:]:
            assert np.array_equal(decode_image(record.image, record.id, channels=5), five)

    @pytest.mark.parametrize(
        ("files", "ids"),
        [
            (("a.npy", "b/c.d.npy"), ("a.npy", "b/c.d.npy")),
            (("a.npy", "a.seg.npy", "a.depth.NPY", "a.cls"), ("a.npy",)),
            # Beside an image it is an array that goes with it, whatever it is called.
            (("a.jpg", "a.npy", "b.npy"), ("a.jpg", "b.npy")),
            (("x/1.tif", "x/1.clip.npy", "y/1.npy"), ("x/1.tif", "y/1.npy")),
            # Maps that nobody reads are no images for that.
            (("a.jpg", "a.depth.tif", "a.Seg.JPG", "a.depth.avif"), ("a.jpg",)),
        ],
    )
    def test_what_is_an_image_and_what_goes_with_one(self, kind, tmp_path, files, ids):
        source = kind(write(kind, tmp_path, dict.fromkeys(files, b"0")))
        assert tuple(source[i].id for i in range(len(source))) == ids
        if "a.seg.npy" in files:
            assert source[0].segmentation == source[0].depth == b"0" and source[0].label == 0

    def test_one_line_tells_what_is_left_out(self, kind, tmp_path, monkeypatch):
        said = []
        monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
        names = ("b.HEIC", "a.heic", "x.y/README", "1.npy", "2.xml", "2.json", "2.txt", ".z.xml")
        path = write(kind, tmp_path, dict.fromkeys((*names, "1.png", "2.jpg"), b"0"))
        assert len(kind(path)) == 2
        (line,) = said
        assert line.startswith(f"{path}: 5 files are left out (2 .heic, ")
        for words in ("1 no suffix", "1 .npy", "1 .xml", "e.g. '1.npy'; images are .jpg "):
            assert words in line

    def test_nothing_is_said_of_what_webdataset_puts_beside_images(
        self, kind, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(logging, "warning", lambda *_: pytest.fail("a warning"))
        kind(write(kind, tmp_path, {"a.jpg": b"0", "a.json": b"", "a.TXT": b"", "a.cls": b"0"}))


def test_folder_follows_links(tmp_path):
    write_folder(tmp_path / "elsewhere", {"a.jpg": b"a"})
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cat").symlink_to(tmp_path / "elsewhere")
    assert FolderSource(tmp_path / "images")[0].id == "cat/a.jpg"


def test_tar_names_are_normalised_and_the_last_duplicate_counts(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"./cat/a.jpg": b"old"})
    write_tar(path, {"cat/a.jpg": b"new", "/cat/../dog/b.jpg": b"b"}, mode="a")
    source = TarSource(path)
    assert [(source[i].id, source[i].image) for i in range(2)] == [
        ("cat/a.jpg", b"new"),
        ("dog/b.jpg", b"b"),
    ]


def test_tar_links_are_no_records(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"a"})
    with tarfile.open(path, "a") as tar:
        for name, kind in (("b.jpg", tarfile.SYMTYPE), ("c.jpg", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    assert len(TarSource(path)) == 1


@pytest.mark.parametrize(
    "mode, name, command",
    [("w:gz", "gzip", "gunzip"), ("w:bz2", "bzip2", "bunzip2"), ("w:xz", "xz", "unxz")],
)
def test_compressed_tar_is_refused_with_the_fix(tmp_path, mode, name, command):
    path = write_tar(tmp_path / "x.tar.z", FILES, mode)
    with pytest.raises(ValueError, match=rf"is compressed \({name}\).*; run `{command} .*x.tar.z`"):
        TarSource(path)


def test_not_a_tar(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"GIF89a" * 500)
    with pytest.raises(ValueError, match=r"x.tar is not a complete tar .*; copy or pack it again"):
        TarSource(tmp_path / "x.tar")


def test_tar_cut_short(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"a" * 5000, "b.jpg": b"b" * 5000})
    whole = path.read_bytes()
    path.write_bytes(whole[: 512 + 5120 + 512 + 3000])
    with pytest.raises(ValueError, match=r"x.tar is not a complete tar"):
        TarSource(path)
    path.write_bytes(whole)
    source = TarSource(path)
    path.write_bytes(whole[:3000])
    with pytest.raises(ValueError, match=r"x.tar ends inside 'a.jpg'; copy the tar again"):
        source[0]


def test_tar_closes_its_file(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    source = TarSource(write_tar(tmp_path / "x.tar", FILES))
    copy = pickle.loads(pickle.dumps(source))
    assert source[0] == copy[0]  # files are opened when first read
    assert len(set(os.listdir("/proc/self/fd")) - before) == 2
    del source, copy
    assert set(os.listdir("/proc/self/fd")) == before


PARTS = {
    "cat/a.jpg": b"image",
    "cat/a.seg.png": b"classes",
    "cat/a.depth.npy": b"metres",
    "cat/a.json": b"{}",
    "cat/b.JPG": b"second",
    "cat/b.DEPTH.PNG": b"millimetres",
    "dog/a.png": b"third",
}


@pytest.mark.parametrize("kind", [FolderSource, TarSource])
class TestParts:
    def test_maps_beside_images(self, kind, tmp_path):
        source = kind(write(kind, tmp_path, PARTS))
        assert [(r.id, r.segmentation, r.depth) for r in (source[i] for i in range(3))] == [
            ("cat/a.jpg", b"classes", b"metres"),
            ("cat/b.JPG", None, b"millimetres"),
            ("dog/a.png", None, None),
        ]

    def test_map_without_image(self, kind, tmp_path):
        path = write(kind, tmp_path, {"a.jpg": b"a", "A.seg.png": b"x", "b.seg.png": b"y"})
        with pytest.raises(
            ValueError,
            match=r"'A.seg.png' is a segmentation map without an image beside it \(2 such\); "
            r"name the image A.jpg",
        ):
            kind(path)

    def test_cls_files_win_over_folders(self, kind, tmp_path):
        files = {"x/a.jpg": b"a", "x/a.cls": b"3\n", "x/b.jpg": b"b", "y/c.jpg": b"c"}
        source = kind(write(kind, tmp_path, {**files, "y/c.cls": b"0", "z/lost.cls": b"9"}))
        assert [source[i].label for i in range(3)] == [3, None, 0]
        assert source.class_names == ["0", "1", "2", "3"]

    @pytest.mark.parametrize("text", [b"cat", b"", b"-1", b"99999999999"])
    def test_cls_file_without_a_number(self, kind, tmp_path, text):
        path = write(kind, tmp_path, {"a.jpg": b"a", "a.cls": text})
        with pytest.raises(ValueError, match=r"'a.cls' holds b'.*'; a .cls file holds one class"):
            kind(path)

    def test_name_that_is_not_utf8(self, kind, tmp_path):
        path = write(kind, tmp_path, {"a.jpg": b"a", "\udce9.jpg": b"e"})
        with pytest.raises(ValueError, match=r"file name '.udce9.jpg' is not UTF-8; rename"):
            kind(path)


class TestShards:
    def write(self, root, shards):
        for name, files in shards.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            write_tar(root / name, files)

    def test_members_of_one_name_are_different_records(self, tmp_path):
        self.write(
            tmp_path,
            {
                "b/train-1.tar": {"cat/0.jpg": b"b1", "cat/0.cls": b"1"},
                "a/train-0.tar": {"dog/0.jpg": b"a0", "cat/0.jpg": b"a1", "cat/0.cls": b"0"},
            },
        )
        source = TarSource(tmp_path / "*" / "train-*.tar")
        assert [(source[i].id, source[i].image, source[i].label) for i in range(3)] == [
            ("a/train-0/cat/0.jpg", b"a1", 0),
            ("a/train-0/dog/0.jpg", b"a0", None),
            ("b/train-1/cat/0.jpg", b"b1", 1),
        ]

    def test_classes_are_folders_inside_the_shards(self, tmp_path):
        self.write(tmp_path, {"1.tar": {"dog/0.jpg": b"d"}, "0.tar": {"cat/0.jpg": b"c"}})
        source = TarSource(tmp_path / "[0-9].tar")
        assert source.class_names == ["cat", "dog"] and source[1].label == 1

    def test_another_shard_changes_no_id(self, tmp_path):
        self.write(tmp_path, {"x/1.tar": {"0.jpg": b"a"}})
        pattern = tmp_path / "**" / "*.tar"
        one = TarSource(pattern).record_id(0)
        self.write(tmp_path, {"x/0.tar": {"0.jpg": b"b"}, "2.tar": {"0.jpg": b"c"}})
        more = TarSource(pattern)
        assert one == "x/1/0.jpg" and one in {more.record_id(i) for i in range(3)}

    def test_more_shards_than_files_may_be_open(self, tmp_path):
        shards = {f"{i:03d}.tar": {"a.jpg": bytes([i])} for i in range(40)}
        self.write(tmp_path, shards)
        before = len(os.listdir("/proc/self/fd"))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        source = TarSource(tmp_path / "*.tar")
        source._files = Handles(source._files._open, limit=8)
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 30, limits[1]))
        try:
            with ThreadPoolExecutor(8) as pool:
                images = list(pool.map(lambda i: source[i].image, list(range(40)) * 5))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert images == [bytes([i]) for i in range(40)] * 5
        assert len(os.listdir("/proc/self/fd")) <= before + 8

    @pytest.mark.parametrize(
        ("pattern", "words"),
        [
            ("*.tar", r"\*.tar matches no file; give a .tar of images, or a glob"),
            ("", r"is a folder; give a .tar of images, or a glob of several"),
            ("{0..9}.tar", r"brace ranges are no glob, write \* or \[0-9\]"),
        ],
    )
    def test_nothing_there(self, tmp_path, pattern, words):
        with pytest.raises(FileNotFoundError, match=words):
            TarSource(tmp_path / pattern)

    @pytest.mark.parametrize("bad", [{"a.txt": b""}, {"a.npy.bak": b""}, {}])
    def test_a_shard_without_an_image(self, tmp_path, bad):
        self.write(tmp_path, {"0.tar": {"a.jpg": b"a"}, "1.tar": bad, "2.tar": {"a.jpg": b"b"}})
        with pytest.raises(ValueError, match=r"/1.tar holds no image \(looked .*; copy or pack it"):
            TarSource(tmp_path / "*.tar")
        assert len(TarSource(tmp_path / "[02].tar")) == 2

    def test_shards_of_zeros(self, tmp_path):
        """What an unfinished copy leaves: to `tar`, an archive of nothing."""
        self.write(tmp_path, {"0.tar": {"a.jpg": b"a"}})
        for name in ("1.tar", "2.tar"):
            (tmp_path / name).write_bytes(bytes(20_480))
        with pytest.raises(ValueError, match=r"/1.tar holds no image, nor do 1 more \(looked for"):
            TarSource(tmp_path / "*.tar")

    def test_imagenet_as_it_is_published(self, tmp_path):
        files = {"n02": {"n00000002_7.JPEG": b"2"}, "n01": {"n00000001_10.JPEG": b"1"}}
        self.write(tmp_path, {f"{name}.tar": members for name, members in files.items()})
        source = TarSource(tmp_path / "n*.tar")
        assert source.class_names == ["n00000001", "n00000002"]
        assert [(source[i].id, source[i].label) for i in range(2)] == [
            ("n01/n00000001_10.JPEG", 0),
            ("n02/n00000002_7.JPEG", 1),
        ]

    @pytest.mark.parametrize(
        "names",
        [
            ("0001_000.jpg", "0001_001.jpg"),
            ("n01440764_1.jpg", "n014407645_1.jpg"),
            ("n01440764_1.jpg", "n01440764.jpg"),
            ("n01440764_1.jpg", "cat.jpg"),
        ],
    )
    def test_other_shards_are_no_classes(self, tmp_path, names):
        members = dict.fromkeys(names, b"")
        self.write(tmp_path, {"0001.tar": members, "n01440764.tar": members})
        source = TarSource(tmp_path / "*.tar")
        assert source.class_names is None and source[0].label is None
