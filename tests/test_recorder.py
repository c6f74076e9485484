"""The flight recorder shows what the train step got, and where records were used, exactly."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from einops import rearrange
from images import encode, smooth, write_folder

from dinojax import build
from dinojax import train as app
from dinojax.config import Config, default_config, parse_config
from dinojax.data.pipeline import TrainBatch
from dinojax.recorder import Run, Use, changed_since, open_run, rebuild, uses
from dinojax.runtime.loop import Outcome
from dinojax.shrink import shrink
from dinojax.ssl.inputs import StepInputs
from dinojax.views.render import render

STEPS, BATCH = 4, 16
FILES = {f"{i:02d}.png": encode(np.roll(smooth(40, 56), 5 * i, 1), "PNG") for i in range(30)}
BAD = {f"bad{i}.jpg": b"no image" for i in range(8)}


class Trained(NamedTuple):
    """A finished run, and what its loop and its train step were given."""

    run: Run
    inputs: list[StepInputs]
    batches: list[TrainBatch]


def config(source: str) -> Config:
    given = shrink(default_config())
    given.mesh.fsdp = 2  # 8 fake devices: data 4 x fsdp 2
    given.train.batch_size, given.train.draw_group_size = BATCH, 1
    given.train.steps = STEPS + 10
    given.dino.koleo_group_size = 2
    given.data.source, given.data.bad_budget = source, 1.0
    given.knn.every_steps = 0
    # The smallest model: only its inputs count.
    given.student.depth, given.student.drop_path_rate = 1, 0.0
    given.student.pos_embed_rope_rescale_coords = None
    return parse_config(given)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    """The training app itself; its loop hands over what goes by."""
    root = tmp_path_factory.mktemp("recorder")
    folder = write_folder(root / "images", FILES | BAD)
    inputs, batches = [], []

    def watched_step(given: Config):
        make_inputs, seen = build.build_inputs(given), {}

        def spy(batch, step):
            seen["inputs"] = make_inputs(batch, step)
            return seen["inputs"]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "build_inputs", lambda _: spy)
            train_step = build.build_train_step(given)

        def step(state, batch):
            state, metrics = train_step(state, batch)
            return state, metrics | {"inputs": seen["inputs"]}

        return step

    def loop(state, *, train_step_at, batches, first_step, writer, **_):
        for step in range(first_step, STEPS):
            state, metrics = train_step_at(step)(state, next(batches))
            inputs.append(jax.device_get(metrics["inputs"]))
            writer.write(step + 1, {"total_loss": 1.0})
        return Outcome(state, 1.0)

    def global_batches(host_batches, mesh):
        def noted():
            for batch in host_batches:
                batches.append(batch)
                yield batch

        return original(noted(), mesh)

    original = app.global_batches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "build_train_step", watched_step)
        patch.setattr(app, "run", loop)
        patch.setattr(app, "global_batches", global_batches)
        app.train(config(str(folder)), str(root / "run"))
    return Trained(open_run(root / "run"), inputs, batches)


def test_whole_steps_are_those_that_the_train_step_got(trained):
    for step in (0, STEPS - 1):
        seen, batch = rebuild(trained.run, step, 99), trained.batches[step]
        inputs = trained.inputs[step]
        assert seen.batch["problems"] == batch["problems"]
        for name in ("canvas", "size", "index"):
            np.testing.assert_array_equal(seen.batch[name], batch[name])
        np.testing.assert_array_equal(seen.global_crops, inputs.global_crops)
        np.testing.assert_array_equal(seen.local_crops, inputs.local_crops)
        masks = rearrange(inputs.masks, "G (V g) P -> V (G g) P", V=2)
        np.testing.assert_array_equal(seen.masks, masks)
        assert seen.global_crops.shape[:2] == (2, BATCH) and seen.masks.any()
    assert any(batch["problems"] for batch in trained.batches)


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
    source = trained.run.batches.source
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


def test_steps_run(trained):
    assert trained.run.steps_run == STEPS


def test_files_repaired_since_are_noticed(trained):
    bad = next(p for batch in trained.batches[:1] for p in batch["problems"])
    path = trained.run.workdir.parent / "images" / bad.id
    before = path.read_bytes()
    assert not changed_since(trained.run, rebuild(trained.run, 0, BATCH))
    try:
        path.write_bytes(FILES["00.png"])
        seen = rebuild(trained.run, 0, BATCH)
        assert changed_since(trained.run, seen) and bad.id in seen.ids
        future = rebuild(trained.run, STEPS, BATCH)
        assert not changed_since(trained.run, future)
    finally:
        path.write_bytes(before)


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


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"workdir .* has no config.json; give the --work"):
        open_run(tmp_path)


def test_other_data_under_the_same_name(trained):
    path = trained.run.workdir.parent / "images" / "new.png"
    path.write_bytes(FILES["00.png"])
    try:
        with pytest.raises(ValueError, match=r"other records or other bytes .*; restore"):
            open_run(trained.run.workdir)
    finally:
        path.unlink()
