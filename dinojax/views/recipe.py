"""What the views of an image are: sizes, scales and the odds of each distortion."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class ViewRecipe:
    """Two global and several local crops per image, as in DINOv2 and DINOv3.

    Reference: `DataAugmentationDINO`, with the defaults of `ssl_default_config.yaml` and of its
    code. Every triple is (global crop 1, global crop 2, each local crop). The blur's 0 / 0.9 / 0.5
    are the odds at which the reference applies it: its wrapper inverts the 1.0 / 0.1 / 0.5 that its
    source says, and all published models were trained that way.
    """

    global_crops_size: int = 224
    local_crops_size: int = 96
    local_crops_number: int = 8
    global_crops_scale: tuple[float, float] = (0.32, 1.0)
    """Range of the crop's area relative to the image's."""
    local_crops_scale: tuple[float, float] = (0.05, 0.32)
    horizontal_flips: bool = True
    rgb_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Of pixels in 0..1, per channel; its length is the number of channels."""
    rgb_std: tuple[float, ...] = (0.229, 0.224, 0.225)

    share_color_jitter: bool = False
    """Draw colour jitter and greyscale once per image instead of once per crop."""
    teacher_no_color_jitter: bool = False
    """Give the teacher the global crops as they are cut and flipped, without any distortion."""
    localcrops_subset_of_globalcrops: bool = False
    """Cut the local crops, patch-aligned and unscaled, out of the global crops."""
    gram_teacher_crops_size: int | None = None
    """Side of a second rendering of the global crops, for the Gram teacher."""
    gram_teacher_no_distortions: bool = False
    """Spare the Gram crops all but cutting and flipping."""

    jitter_probability: float = 0.8
    jitter_strengths: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Brightness, contrast, saturation: factors in 1 -+ strength; hue: turns in -+ strength."""
    grey_probability: float = 0.2
    blur_probabilities: tuple[float, float, float] = (0.0, 0.9, 0.5)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range in pixels of the crop."""
    solarize_probabilities: tuple[float, float, float] = (0.0, 0.2, 0.0)

    @property
    def base_crop_px(self) -> int:
        """Side at which global crops are cut: the larger of the global and the Gram crops."""
        return max(self.global_crops_size, self.gram_teacher_crops_size or 0)


OFFSET_PX = 16
"""Grid of the local crops cut out of global ones, whatever the model's patch size (reference)."""


RGB_ONLY = "crops.jitter_strengths[2:] (saturation, hue) and crops.grey_probability"


def without_rgb_operations(recipe: ViewRecipe) -> ViewRecipe:
    """The recipe for images of other than three channels, which have no colour to change.

    Brightness, contrast, blur and solarize stay; the choices behind them stay the same.
    """
    strengths = (*recipe.jitter_strengths[:2], 0.0, 0.0)
    return dataclasses.replace(recipe, jitter_strengths=strengths, grey_probability=0.0)


def validate(recipe: ViewRecipe, channels: int) -> None:
    """Refuse recipes that cannot be rendered for images of this many channels.

    Raises:
        ValueError: naming the key, the rule and a value that works.
    """
    for name in ("rgb_mean", "rgb_std"):
        if len(getattr(recipe, name)) != channels:
            raise ValueError(
                f"crops.{name}={getattr(recipe, name)} has {len(getattr(recipe, name))} values for "
                f"images of {channels} channels; give one per channel, measured on your data"
            )
    if channels != 3 and recipe != without_rgb_operations(recipe):
        raise ValueError(
            f"{RGB_ONLY} change colours, which images of {channels} channels do not have; "
            "use without_rgb_operations(recipe)"
        )
    if recipe.local_crops_number < 0:
        raise ValueError(
            f"crops.local_crops_number={recipe.local_crops_number} must be at least 0; use 8"
        )
    if recipe.gram_teacher_no_distortions and recipe.gram_teacher_crops_size is None:
        raise ValueError(
            "crops.gram_teacher_no_distortions=True has no crops to spare; set "
            f"crops.gram_teacher_crops_size, e.g. to {recipe.global_crops_size}"
        )
    if recipe.teacher_no_color_jitter and recipe.share_color_jitter:
        raise ValueError(
            "crops.teacher_no_color_jitter=True contradicts share_color_jitter=True, which colours "
            "the image before the teacher's crops are cut; set one of them to False"
        )
    if recipe.localcrops_subset_of_globalcrops:
        _validate_subset(recipe)


def _validate_subset(recipe: ViewRecipe) -> None:
    if recipe.local_crops_number % 2:
        raise ValueError(
            f"crops.local_crops_number={recipe.local_crops_number} is odd, but with "
            "localcrops_subset_of_globalcrops each of the two global crops gives half of them; use "
            f"{recipe.local_crops_number + 1}"
        )
    if recipe.global_crops_size - recipe.local_crops_size < OFFSET_PX:
        raise ValueError(
            f"crops.local_crops_size={recipe.local_crops_size} leaves no room to move inside "
            f"global_crops_size={recipe.global_crops_size}; use at most "
            f"{recipe.global_crops_size - OFFSET_PX}"
        )
