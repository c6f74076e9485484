"""From a configuration to the model FLOPs of its step."""

import numpy as np

from dinojax.build.gram import has_gram_teacher
from dinojax.build.inputs import build_mask_counts, build_views, draw_group_size
from dinojax.build.model import build_frozen_model, build_model
from dinojax.config import Config
from dinojax.config.resolutions import resolution_order, resolutions
from dinojax.config.students import student_configs
from dinojax.ssl.flops import ImageFlops, image_flops, matching_flops
from dinojax.ssl.matching import MatchingModel


def build_image_flops(config: Config) -> ImageFlops:
    """Model FLOPs per image, by part; of all students together."""
    students = student_configs(config) or {"": config}
    parts = [_image_flops(one, len(students)) for one in students.values()]
    return ImageFlops(*(sum(part) for part in zip(*parts, strict=True)))


def mean_image_flops(config: Config) -> ImageFlops:
    """The same on average over all steps of a run, which may take several resolutions in turn."""
    parts = np.array([build_image_flops(one) for one in resolutions(config)])
    steps = resolution_order(config).counts(config.train.steps)
    return ImageFlops(*np.average(parts, axis=0, weights=steps).tolist())


def _image_flops(config: Config, students: int) -> ImageFlops:
    views, counts = build_views(config), build_mask_counts(config)
    side, gram_side = views.global_crops_size, views.gram_teacher_crops_size
    model, frozen = build_model(config), build_frozen_model(config)
    teacher_px = round(side / config.crops.teacher_to_student_resolution_scale)
    if isinstance(model, MatchingModel):
        assert isinstance(frozen, MatchingModel)
        return matching_flops(
            model,
            frozen,
            global_px=side,
            teacher_px=teacher_px,
            channels=config.student.in_chans,
            drop_path_rate=config.student.drop_path_rate,
            students=students,
        )
    assert not isinstance(frozen, MatchingModel)
    return image_flops(
        model,
        global_px=side,
        local_px=views.local_crops_size,
        local_crops=views.local_crops_number,
        masked_patches=float(counts.sum() / draw_group_size(config)),
        channels=config.student.in_chans,
        drop_path_rate=config.student.drop_path_rate,
        gram_px=(gram_side or side) if has_gram_teacher(config.gram) else 0,
        frozen=frozen,
        students=students,
        teacher_px=teacher_px,
    )


def build_flops(config: Config) -> float:
    """Model FLOPs of one step."""
    return config.train.batch_size * build_image_flops(config).total
