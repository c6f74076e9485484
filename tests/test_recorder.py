"""The flight recorder shows what the train step got, and where records were used, exactly."""

import jax
import numpy as np
import pytest
from images import as_npy, write_folder
from recorded import (
    BAD,
    BATCH,
    FILES,
    PLAIN,
    STEPS,
    Trained,
    check_step,
    config,
    inputs_only,
    train,
    whole_step,
)

from dinojax.recorder import Use, rebuild, uses
from dinojax.runs import open_run
from dinojax.views.render import render


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    root = tmp_path_factory.mktemp("recorder")
    folder = write_folder(root / "images", FILES | BAD)
    given = config(data__source=str(folder), mesh__fsdp=2)  # 8 fake devices: data 4 x fsdp 2
    return train(root, given, whole_step, devices=8)


@pytest.mark.slow
def test_whole_steps_are_those_that_the_train_step_got(trained):
    for step in (0, STEPS - 1):
        check_step(trained, step)
    assert any(batch["problems"] for batch in trained.batches)


def statistics(channels: int) -> dict[str, object]:
    keys = {"student__in_chans": channels, "crops__rgb_mean": (0.4, 0.5, 0.3, 0.6, 0.5)[:channels]}
    return keys | {"crops__rgb_std": (0.2, 0.3, 0.25, 0.2, 0.3)[:channels]}


OTHER_RUNS = ("one channel, two resolutions", "five channels", "mixture")


@pytest.fixture(params=OTHER_RUNS)
def other_run(request, tmp_path) -> Trained:
    """Of every other kind of images, order and step; with unreadable records where files are."""
    folder = str(write_folder(tmp_path / "images", FILES | BAD))
    match request.param:
        case "one channel, two resolutions":
            keys = {"data__source": folder, **statistics(1)}
            keys |= {"crops__global_crops_size": (32, 48), "crops__local_crops_size": (16, 24)}
        case "five channels":
            bands = np.random.default_rng(0).integers(0, 256, (24, 20, 30, 5), np.uint8)
            (tmp_path / "bands.npy").write_bytes(as_npy(bands))
            keys = {"data__source": f"numpy:{tmp_path / 'bands.npy'}", **statistics(5)}
        case _:
            mixture = ((folder, 1.0), ("scenes", 2.0))
            keys = {"data__mixture": mixture, "data__homogeneous_source": folder, **PLAIN}
            keys |= {"data__homogeneous_share": 0.5}
    return train(tmp_path, config(**keys), inputs_only)


@pytest.mark.slow
def test_other_kinds_of_runs(other_run):
    parts, sizes = [], []
    for step in range(STEPS):
        check_step(other_run, step)
        parts.append(len({i >= len(FILES) for i in other_run.batches[step]["index"].tolist()}))
        sizes.append(other_run.inputs[step].global_crops.shape[2])
    config = other_run.run.config
    assert any(b["problems"] for b in other_run.batches) == (config.student.in_chans < 5)
    assert len(set(sizes)) == (2 if isinstance(config.crops.local_crops_size, tuple) else 1)
    if config.data.mixture:
        assert sorted(parts) == [1, 1, 2, 2]  # homogeneous steps and mixed ones


def test_a_few_images_are_the_first_ones(trained):
    """Their choices exactly; the last bit of a pixel may depend on the shape of the program."""
    whole, part = rebuild(trained.run, 2, BATCH), rebuild(trained.run, 2, 3)
    assert part.ids == whole.ids[:3] and not set(part.ids) & set(BAD)
    jax.tree.map(
        lambda few, all_: np.testing.assert_array_equal(few, all_[:3]), part.params, whole.params
    )
    np.testing.assert_array_equal(part.masks, whole.masks[:, :3])
    for name in ("global_crops", "local_crops"):
        few, all_ = getattr(part, name), getattr(whole, name)
        np.testing.assert_allclose(few, all_[:, :3], rtol=0, atol=1e-5)


def test_the_choices_are_those_behind_the_crops(trained):
    """Rendering from them gives the crops again."""
    seen = rebuild(trained.run, 1, 3)
    recipe = trained.run.config.crops
    draw = jax.jit(jax.vmap(lambda *image: render(*image, recipe), out_axes=1))
    crops = draw(seen.batch["canvas"], seen.batch["size"], seen.params)
    np.testing.assert_allclose(crops.global_crops, seen.global_crops, rtol=0, atol=1e-5)
    np.testing.assert_allclose(crops.local_crops, seen.local_crops, rtol=0, atol=1e-5)


def brute_force(trained: Trained, steps: int) -> dict[str, list[Use]]:
    """By looking at every slot of every batch, of which the first were trained on."""
    source = trained.run.data.source
    found = {source.record_id(i): [] for i in range(len(source))}
    for step in range(steps):
        ran = step < STEPS
        batch = trained.batches[step] if ran else trained.run.batches[step]
        lost = {p.position % BATCH: p.id for p in batch["problems"] if p.attempt == 0}
        for slot, index in enumerate(batch["index"].tolist()):
            shown = source.record_id(index)
            drawn = lost.get(slot, shown)
            if drawn == shown or not ran:
                found[drawn].append(Use(step, slot, "drawn", None))
            else:
                found[drawn].append(Use(step, slot, "unreadable", shown))
                found[shown].append(Use(step, slot, "substitute", drawn))
    return found


def test_uses_are_those_of_brute_force(trained):
    """Two steps beyond the run included, of which no substitutes are known yet."""
    expected = brute_force(trained, STEPS + 2)
    found = {name: list(uses(trained.run, name, STEPS + 2)) for name in expected}
    assert found == expected
    kinds = {use.kind for listed in found.values() for use in listed}
    assert kinds == {"drawn", "substitute", "unreadable"}
    # Every slot of the run shows one record.
    shown = [(u.step, u.slot) for x in found.values() for u in x if u.kind != "unreadable"]
    assert sorted(place for place in shown if place[0] < STEPS) == [
        (step, slot) for step in range(STEPS) for slot in range(BATCH)
    ]


def test_steps_that_were_left_out_used_nothing(trained):
    """After a rollback; what was unreadable there was so all the same."""
    path = trained.run.workdir / "rollbacks.json"
    path.write_text('[{"first": 1, "end": 3}]')
    try:
        run = open_run(trained.run.workdir)
        for name in map(trained.run.data.source.record_id, range(len(trained.run.data.source))):
            for then, now in zip(
                uses(trained.run, name, STEPS), uses(run, name, STEPS), strict=True
            ):
                left_out = then.step in (1, 2) and then.kind != "unreadable"
                assert now == (then._replace(kind="no-op") if left_out else then)
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda run: rebuild(run, STEPS + 10, 1),
            r"step=14 is none of .*=14; use 0..13",
        ),
        (lambda run: rebuild(run, -1, 1), r"step=-1 is none of"),
        (lambda run: rebuild(run, 0, 0), r"images=0 must be at least 1; use 8"),
        (lambda run: list(uses(run, "x.png", 1)), r"id='x.png' is no training record; ids look l"),
    ],
)
def test_impossible_questions(trained, call, message):
    with pytest.raises(ValueError, match=message):
        call(trained.run)
