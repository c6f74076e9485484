"""From keys to sources: mixtures, their order, and which part the monitor watches."""

import numpy as np
import pytest
from images import encode, smooth, write_folder

from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.config.validation import validate
from dinojax.data.check import fingerprint
from dinojax.data.order import Order
from dinojax.training.data import open_data


def config(**overrides) -> Config:
    config = shrink(default_config())
    config.data.holdout = 0.3
    config.update_from_flattened_dict({f"data.{k}": v for k, v in overrides.items()})
    return parse_config(config)


@pytest.fixture
def folders(tmp_path):
    """Paths of images with and without labels."""

    def folder(name, pattern, count):
        files = {pattern.format(i=i, c=i % 2): encode(smooth(9 + i, 12)) for i in range(count)}
        return str(write_folder(tmp_path / name, files))

    return folder("labelled", "{c}/{i}.jpg", 40), folder("bare", "{i}.jpg", 30)


def held_out(source):
    return {source.record_id(i) for i in range(len(source))}


def test_one_source():
    data = open_data(config(source="scenes"))
    assert data.order == Order((64,), global_batch=8, seed=0)
    assert data.bank is data.source and len(data.queries) == 19
    assert data.order.mixture == ""  # fingerprints stay what they were before there were mixtures


def test_a_folder_may_be_called_scenes(folders, tmp_path, monkeypatch):
    (tmp_path / "labelled").rename(tmp_path / "scenes")
    monkeypatch.chdir(tmp_path)
    data = open_data(config(source="folder:scenes"))
    assert len(data.bank) + len(data.queries) == 40 and data.bank.class_names == ["0", "1"]


def test_a_mixture_is_its_parts_end_to_end(folders):
    labelled, bare = folders
    data = open_data(config(mixture=((bare, 3.0), (labelled, 1.0), ("scenes", 1.0))))
    # Only the watched part gives records away.
    assert data.order.sizes == (30, len(data.bank), 64)
    assert len(data.bank) + len(data.queries) == 40 and data.bank.class_names == ["0", "1"]
    assert data.order.weights == (3.0, 1.0, 1.0)
    assert len(data.source) == sum(data.order.sizes)
    assert data.source.record_id(0) == "0/0.jpg"
    assert data.source[30].id == f"1/{data.bank.record_id(0)}"
    assert data.source[len(data.source) - 1].id == "2/scenes/train/000063"
    assert not held_out(data.bank) & held_out(data.queries)


@pytest.mark.parametrize(
    ("keys", "watched"),
    [
        ({}, "labelled"),
        ({"homogeneous_source": "scenes", "homogeneous_share": 0.1}, "scenes"),
        ({"homogeneous_source": "bare", "homogeneous_share": 0.1}, "labelled"),
    ],
    ids=["first with labels", "homogeneous", "homogeneous without labels"],
)
def test_the_monitor_watches_one_part(folders, keys, watched):
    names = {"labelled": folders[0], "bare": folders[1], "scenes": "scenes"}
    keys = {name: names.get(value, value) for name, value in keys.items()}
    mixture = tuple((names[name], 1.0) for name in ("bare", "labelled", "scenes"))
    data = open_data(config(mixture=mixture, **keys))
    kept = {"labelled": (30, len(data.bank), 64), "scenes": (30, 40, 64)}
    assert data.order.sizes == kept[watched]
    first = data.queries.record_id(0)
    assert first.startswith("scenes/test") == (watched == "scenes")


@pytest.mark.parametrize("homogeneous", [None, 1])
def test_no_part_with_labels(folders, tmp_path, homogeneous):
    """Images are held out all the same: most of what a monitor says needs no labels."""
    files = {f"{i}.jpg": encode(smooth(9 + i, 12)) for i in range(50)}
    names = folders[1], str(write_folder(tmp_path / "more", files))
    keys = {} if homogeneous is None else {"homogeneous_source": names[1], "homogeneous_share": 0.1}
    data = open_data(config(mixture=tuple((name, 1.0) for name in names), **keys))
    watched, sizes = homogeneous or 0, [30, 50]
    sizes[watched] = len(data.bank)
    assert data.order.sizes == tuple(sizes)
    assert len(data.bank) + len(data.queries) == (30, 50)[watched]
    assert data.bank.class_names is None and not held_out(data.bank) & held_out(data.queries)


def test_homogeneous_steps_reach_the_order(folders):
    labelled, bare = folders
    keys = {"homogeneous_source": labelled, "homogeneous_share": 0.25}
    data = open_data(config(mixture=((bare, 1.0), (labelled, 0.0)), **keys))
    drawn = np.diff([data.order.counts(step) for step in range(9)], axis=0)
    assert sorted(map(tuple, drawn)) == [(0, 8)] * 2 + [(8, 0)] * 6


def test_the_fingerprint_covers_parts_weights_and_roles(folders):
    """The specs may change, because data may move; what they mean may not."""
    labelled, bare = folders
    pair = ((labelled, 1.0), (bare, 1.0))
    role = {"homogeneous_share": 0.5}
    variants = [
        {"mixture": pair},
        {"mixture": pair[::-1]},
        {"mixture": ((labelled, 1.0), (bare, 2.0))},
        {"mixture": pair, "homogeneous_source": labelled, **role},
        {"mixture": pair, "homogeneous_source": bare, **role},
        {"mixture": pair[:1]},
        {"source": labelled},
    ]
    prints = set()
    for keys in variants:
        data = open_data(config(**keys))
        prints.add(fingerprint(data.source, data.order.mixture).digest)
    assert len(prints) == len(variants)


PAIR = (("/a", 1.0), ("/b", 1.0))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"source": "/c", "mixture": PAIR},
            r"data.source='/c' and data.mixture exclude each other",
        ),
        ({"mixture": (*PAIR, ("/a", 2.0))}, r"data.mixture names '/a' twice"),
        ({"mixture": (("/a", -1.0), ("/b", 1.0))}, r"weights \(-1.0, 1.0\) must be finite"),
        ({"mixture": (("/a", 0.0), ("/b", 1.0))}, r"nothing would ever be drawn from part 0"),
        (
            {"mixture": PAIR, "homogeneous_source": "/c", "homogeneous_share": 0.1},
            r"data.homogeneous_source='/c' is not in data.mixture; use one of \['/a', '/b'\]",
        ),
        ({"homogeneous_source": "/c", "homogeneous_share": 0.1}, r"='/c' is not in data.mixture"),
        ({"mixture": PAIR, "homogeneous_source": "/a"}, r"homogeneous_share=0.0 must lie strictly"),
        ({"mixture": PAIR, "homogeneous_share": 0.1}, r"homogeneous_share=0.1 .* name the part"),
        (
            {"mixture": PAIR, "homogeneous_source": "/a", "homogeneous_share": 1.5},
            r"homogeneous_share=1.5 must lie strictly between 0 and 1",
        ),
    ],
)
def test_impossible_mixtures_are_refused_before_anything_is_opened(keys, words):
    with pytest.raises(ValueError, match=words):
        validate(config(**keys), batch_shards=1)
