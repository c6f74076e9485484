"""Every rule: histories that set it off, and near ones that do not."""

import pytest

from dinojax.runtime.alarms import RULES, Alarm, History, alarms

HEALTHY = {
    "knn": 0.5,
    "linear": 0.5,
    "student_knn": 0.5,
    "student_linear": 0.5,
    "rankme": 40.0,
    "student_rankme": 40.0,
    "nn_distance_q50": 0.5,
    "student_nn_distance_q50": 0.5,
    "locality": 0.6,
    "cls_occupancy": 0.8,
    "patch_occupancy": 0.8,
    "cls_target_entropy": 0.4,
    "patch_target_entropy": 0.4,
    "teacher_student_distance": 0.1,
}
FIRST = {**HEALTHY, "teacher_student_distance": 0.0, "knn_pixels": 0.2, "knn_chance": 0.13}
FIRST["repeated_images"] = 0.0


def history(*evaluations: dict, ratios: tuple[float, ...] = ()) -> History:
    """Evaluated every 10 steps, from step 0 on."""
    steps = [(100 + i, {"backbone_update_ratio": ratio}) for i, ratio in enumerate(ratios)]
    return History([(10 * i, one) for i, one in enumerate(evaluations)], steps)


def names(given: History, **limits: float) -> list[str]:
    return [alarm.name for alarm in alarms(given, limits)]


def test_a_healthy_run_is_left_alone():
    better = {**HEALTHY, "knn": 0.6, "locality": 0.5}
    for given in (History(), history(FIRST), history(FIRST, HEALTHY, better, HEALTHY)):
        assert not alarms(given)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("rank_collapse", {"rankme": 9.0}),
        ("rank_collapse", {"student_rankme": 9.0}),
        ("features_alike", {"nn_distance_q50": 0.04}),
        ("features_alike", {"student_nn_distance_q50": 0.04}),
        ("prototype_collapse", {"cls_occupancy": 0.15}),
        ("prototype_collapse", {"patch_occupancy": 0.15}),
        ("dense_decay", {"locality": 0.35}),
        ("teacher_is_student", {"teacher_student_distance": 0.0}),
        ("worse_features", {"knn": 0.3}),
    ],
)
def test_what_sets_a_rule_off(name, changes):
    assert names(history(FIRST, HEALTHY, {**HEALTHY, **changes})) == [name]
    # The rules are about the end of a history.
    assert not names(history(FIRST, {**HEALTHY, **changes}, HEALTHY))


def test_limits_are_where_they_are_said_to_be():
    last = {**HEALTHY, "rankme": 20.0}
    assert names(history(FIRST, last), rank_collapse=0.5) == ["rank_collapse"]
    assert not names(history(FIRST, last), rank_collapse=0.49)
    hot = [{**HEALTHY, "cls_target_entropy": 0.9}] * 3
    assert names(history(FIRST, *hot), uniform_targets=0.9) == ["uniform_targets"]
    assert not names(history(FIRST, *hot), uniform_targets=0.91)


@pytest.mark.parametrize("token", ["cls", "patch"])
def test_new_heads_may_be_undecided_for_a_while(token):
    hot = {**HEALTHY, f"{token}_target_entropy": 0.99}
    assert not names(history(hot, hot, hot))  # the first is of an untrained state
    assert names(history(FIRST, hot, hot, hot)) == ["uniform_targets"]
    assert not names(history(FIRST, hot, hot, HEALTHY, hot))


def test_the_first_state_has_no_past():
    """Teacher and student begin equal, and random heads may know nothing."""
    assert not names(history({**FIRST, "cls_target_entropy": 1.0, "rankme": 1.0}))


def test_dense_decay_is_not_what_falls_with_all_else():
    worse = {**HEALTHY, "locality": 0.35, "knn": 0.4}
    assert "dense_decay" not in names(history(FIRST, HEALTHY, worse))
    unlabelled = {"rankme": 40.0, "locality": 0.6, "teacher_student_distance": 0.1}
    assert names(history(unlabelled, {**unlabelled, "locality": 0.3})) == ["dense_decay"]


@pytest.mark.parametrize("tells", ["knn", "linear", "student_linear", "knn_pixels", None])
def test_labels_look_wrong_if_nothing_tells_classes_apart(tells):
    guessed = {name: 0.1 for name in FIRST if name.endswith(("knn", "linear", "knn_pixels"))}
    first = {**FIRST, **guessed}
    if tells is not None:
        first[tells] = 0.2
    assert names(history(first)) == ([] if tells else ["labels_look_wrong"])
    assert "labels_look_wrong" not in names(history(first, first))  # said at the first evaluation


def test_images_that_are_all_alike():
    assert names(history({**FIRST, "repeated_images": 0.7})) == ["repeated_images"]


def test_several_large_updates_in_a_row():
    assert names(history(ratios=(0.2, 0.3, 0.2))) == ["large_updates"]
    assert not names(history(ratios=(0.2, 0.3)))
    assert not names(history(ratios=(0.2, 0.01, 0.2)))
    assert names(history(ratios=(0.001, 0.2, 0.3, 0.2))) == ["large_updates"]


def test_numbers_that_are_not_there_are_no_alarm():
    """metrics.jsonl has null for NaN."""
    assert not names(history(FIRST, {**HEALTHY, "rankme": None, "knn": float("nan")}))
    assert not names(history({}, {}))


def test_kinds_of_rules():
    broken = {**HEALTHY, "rankme": 1.0}
    given = history(FIRST, broken, ratios=(0.2,) * 3)
    assert {alarm.name for alarm in alarms(given)} == {"rank_collapse", "large_updates"}
    (of_steps,) = alarms(given, of_steps=True)
    (of_states,) = alarms(given, of_steps=False)
    assert (of_steps.name, of_steps.step, of_steps.curable) == ("large_updates", 102, False)
    assert (of_states.name, of_states.step, of_states.curable) == ("rank_collapse", 10, True)


def test_plain_words():
    """What is seen with its number, what it means and what to do."""
    given = history(FIRST, {**HEALTHY, "rankme": 4.0})
    (alarm,) = alarms(given)
    assert isinstance(alarm, Alarm) and alarm.value == pytest.approx(0.1)
    assert alarm.text.startswith("RankMe is at 10% of its peak. ")
    for rule in RULES.values():
        words = rule.seen.format(value=0.5)
        assert words[-1] != "." and rule.means.endswith(".") and rule.help.endswith(".")
