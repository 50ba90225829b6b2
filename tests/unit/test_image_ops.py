"""The operations of RandAugment and TrivialAugment, compared with torchvision's."""

import math

import albumentations as A  # noqa: N812
import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, RandAugment, TrivialAugmentWide
from torchvision.transforms.v2 import functional

from trainer.augmentation.image_ops import RANDAUGMENT, TRIVIALAUGMENT, make_image_ops, rotation, warp

pytestmark = pytest.mark.unit

SIDE = 48
UNSIGNED = ("Identity", "AutoContrast", "Equalize", "Posterize", "Solarize")
SIGNED = (
    *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"),
    *("Brightness", "Contrast", "Color", "Sharpness"),
)
NAMES = [(name, 0) for name in 2 * UNSIGNED] + [(name, sign) for sign in (-1, 1) for name in SIGNED]
BILINEAR = InterpolationMode.BILINEAR
CHANGES = {
    "Identity": lambda x, _: x,
    "AutoContrast": lambda x, _: functional.autocontrast(x),
    "Equalize": lambda x, _: functional.equalize(x),
    "Posterize": lambda x, bits: functional.posterize(x, int(bits)),
    "Solarize": functional.solarize,
    # To the other side than here, around the centre like here.
    "ShearX": lambda x, m: functional.affine(x, 0, [0, 0], 1, [-math.degrees(math.atan(m)), 0], BILINEAR),
    "ShearY": lambda x, m: functional.affine(x, 0, [0, 0], 1, [0, -math.degrees(math.atan(m))], BILINEAR),
    "TranslateX": lambda x, m: functional.affine(x, 0, [int(m), 0], 1, [0, 0], BILINEAR),
    "TranslateY": lambda x, m: functional.affine(x, 0, [0, int(m)], 1, [0, 0], BILINEAR),
    "Rotate": lambda x, m: functional.rotate(x, m, BILINEAR),
    "Brightness": lambda x, m: functional.adjust_brightness(x, 1 + m),
    "Contrast": lambda x, m: functional.adjust_contrast(x, 1 + m),
    "Color": lambda x, m: functional.adjust_saturation(x, 1 + m),
    "Sharpness": lambda x, m: functional.adjust_sharpness(x, 1 + m),
}


def _smooth_image():
    """Waves of three lengths that leave out the highest and lowest values, uint8 [side, side, 3]."""
    down, across = np.mgrid[:SIDE, :SIDE]
    waves = (127 + 100 * np.sin(across / 7), 127 + 90 * np.cos(down / 9), 60 + 3 * ((across + down) % 40))
    return np.stack(waves, axis=-1).astype(np.uint8)


def _all_values():
    """Every value of each colour, among them 0 and 255."""
    ramp = np.resize(np.arange(256), (SIDE, SIDE))
    return np.stack((ramp, ramp.T, ramp[::-1]), axis=-1).astype(np.uint8)


def _magnitudes(ranges):
    if ranges is RANDAUGMENT:
        return RandAugment()._augmentation_space(31, (SIDE, SIDE))
    wide = TrivialAugmentWide()._augmentation_space(31)
    # 32 pixels, which are a seventh of the side there.
    return wide | {name: (wide[name][0] / 224 * SIDE, True) for name in ("TranslateX", "TranslateY")}


@pytest.mark.parametrize("ranges", [RANDAUGMENT, TRIVIALAUGMENT], ids=["randaugment", "trivialaugment"])
@pytest.mark.parametrize("image", [_smooth_image(), _all_values()], ids=["smooth", "all_values"])
@pytest.mark.parametrize("magnitude", [0, 9, 20, 30])
def test_operations(image, ranges, magnitude):
    """Each of the 14 operations, with either sign, does what torchvision's does at low and high magnitudes."""
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    made = make_image_ops(magnitude, ranges)
    space = _magnitudes(ranges)
    assert set(space) == {*UNSIGNED, *SIGNED}
    for (name, sign), operation in zip(NAMES, made, strict=True):
        strengths, is_signed = space[name]
        assert is_signed == (sign != 0)
        strength = strengths[magnitude].item() if strengths.ndim else 0.0
        expected = CHANGES[name](tensor, strength * (sign or 1)).permute(1, 2, 0).numpy().astype(int)
        difference = abs(operation(image=image)["image"] - expected)
        if name == "Sharpness":  # torchvision leaves the outermost pixels as they are
            difference = difference[1:-1, 1:-1]
        if name in {"ShearX", "ShearY", "Rotate"}:  # a sharp edge between two pixels may fall to either
            assert difference.mean() < 0.5, name
        else:
            assert difference.max() <= 2, name


@pytest.mark.parametrize("ranges", [RANDAUGMENT, TRIVIALAUGMENT], ids=["randaugment", "trivialaugment"])
def test_stronger_magnitudes_change_more(ranges):
    """Each operation that has a magnitude changes an image more at a higher one."""
    image = _smooth_image()
    made = zip(NAMES, *(make_image_ops(magnitude, ranges) for magnitude in (1, 15, 30)), strict=True)
    for (name, _), *stronger in made:
        far = [abs(operation(image=image)["image"] - image.astype(int)).mean() for operation in stronger]
        if name in {"Identity", "AutoContrast", "Equalize"}:
            assert far[0] == far[1] == far[2]
        elif name == "Rotate":  # 135 degrees of these waves look less far than 67
            assert far[0] < min(far[1:])
        else:
            assert far == sorted(far), name
            assert far[0] < far[2], name


@pytest.mark.parametrize("values", [(7,), (0, 255), (100, 255), (3, 4)])
def test_few_values(values):
    """AutoContrast and Equalize take images of one or two values as torchvision does."""
    image = np.resize(np.array(values, np.uint8), (SIDE, SIDE + 1))[:, :SIDE, None].repeat(3, axis=2)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    for place, change in ((1, functional.autocontrast), (2, functional.equalize)):
        changed = make_image_ops(0, RANDAUGMENT)[place](image=image)["image"]
        np.testing.assert_allclose(changed, change(tensor).permute(1, 2, 0).numpy(), rtol=0, atol=1)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("side", [9, 32, 224])
def test_warp(seed, side):
    """A warp by rotation, scale and shift is that of albumentations' Affine, pixel by pixel."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
    (across, down), shift, degrees = random.uniform(0.7, 1.3, 2), random.uniform(-0.2, 0.2, 2), random.uniform(-30, 30)
    affine = A.Affine(
        scale={"x": (across, across), "y": (down, down)},
        translate_percent={"x": (shift[0], shift[0]), "y": (shift[1], shift[1])},
        rotate=(degrees, degrees),
        p=1.0,
    )
    a, b, c, d = rotation(degrees)
    changed = warp(image, (a * across, b * down, c * across, d * down), tuple(shift))
    np.testing.assert_array_equal(changed, affine(image=image)["image"])
