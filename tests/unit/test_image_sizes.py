"""At which image sizes a backbone may be trained: those of which it sees every pixel."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import nn

from trainer.errors import RecipeError
from trainer.extensions import Extensions
from trainer.model.backbones import build_model
from trainer.model.feasibility import check_backbones, training_problem
from trainer.model.image_sizes import unseen_problem
from trainer.recipe import Recipe
from trainer.space import DEFAULT_SPACE, Space

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]


def sees(model, size):
    """Whether the logits change with the last row and with the last column of an image."""
    torch.manual_seed(1)
    image = torch.randn(1, 3, size, size)
    row, column = image.clone(), image.clone()
    row[:, :, -1] += 5
    column[:, :, :, -1] += 5
    with torch.no_grad():
        logits = model(image)
        return not torch.equal(model(row), logits) and not torch.equal(model(column), logits)


@pytest.mark.parametrize(
    "backbone",
    [
        "test_resnet",
        "test_convnext",
        "test_efficientnet",
        "test_efficientnet_ln",
        "test_mambaout",
        "test_byobnet",
        "test_nfnet",
    ],
)
def test_a_size_is_refused_where_pixels_are_not_seen_and_only_there(backbone):
    """At each size the last row and column of pixels change what a model says, or the size is refused."""
    torch.manual_seed(0)
    model = timm.create_model(backbone, num_classes=3).eval()
    for weight in model.parameters():
        if not weight.any():
            nn.init.normal_(weight)
    told = [(unseen_problem(backbone, size) is None, sees(model, size)) for size in range(32, 49)]
    assert [mine for mine, _ in told] == [theirs for _, theirs in told]


@pytest.mark.parametrize(
    ("backbone", "size", "line"),
    [
        (
            "vit_small_patch16_224.augreg_in21k_ft_in1k",
            250,
            "sees only 240 x 240 pixels where image_size = 250; take 240 or 256",
        ),
        ("vit_small_patch14_reg4_dinov2", 225, "sees only 224 x 224 pixels where image_size = 225; take 224 or 238"),
        ("swin_tiny_patch4_window7_224", 226, "sees only 224 x 224 pixels where image_size = 226; take 224 or 228"),
        ("mixer_s16_224", 2047, "sees only 2032 x 2032 pixels where image_size = 2047; take 2032 or 2048"),
        ("test_vit", 40, "cannot work with image_size = 40: .*; take 32 or 48"),
        ("test_vit", 9, "cannot work with image_size = 9: .*; take 16"),
        ("test_vit", "32x40", 'cannot work with image_size = "32x40": .*; take 32'),
        (
            "vit_small_patch14_reg4_dinov2",
            "224x225",
            'sees only 224 x 224 pixels where image_size = "224x225"; take 224',
        ),
        ("test_convnext", "33x64", 'sees only 32 x 64 pixels where image_size = "33x64"; take "32x64"'),
    ],
)
def test_the_nearest_sizes_are_named(backbone, size, line):
    """Whatever the reason, a size is refused with the nearest one below and above at which all pixels are seen."""
    with pytest.raises(RecipeError) as refused:
        check_backbones(Space({"backbone": backbone, "image_size": size, "pretrained": False}), 2)
    [problem] = refused.value.problems
    assert re.fullmatch(f'backbone: "{backbone}" {line}', problem)


@pytest.mark.parametrize(("backbone", "sizes"), [("test_convnext", (32, 64)), ("test_vit", (32, 48))])
def test_no_nearer_size_would_do(backbone, sizes):
    """Of all sizes between the two that are named each is refused, and the two are not."""
    below, above = sizes
    for size in range(below, above + 1):
        problem = training_problem(Recipe(backbone=backbone, image_size=size))
        assert (problem is None) is (size in sizes)
        assert problem is None or problem.endswith(f"; take {below} or {above}")


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_vit"])
def test_rectangles_that_are_seen_whole_are_taken(backbone):
    """A rectangle of sides that a backbone takes is accepted, and the model classifies such images."""
    recipe = Recipe(backbone=backbone, image_size="32x64", pretrained=False)
    assert training_problem(recipe) is None
    model = build_model(recipe, 2, Extensions(), pretrained=False)
    assert model(torch.zeros(2, 32, 64, 3, dtype=torch.uint8)).shape == (2, 2)
    assert model.preprocessing()["resize"].startswith("stretch to 32 x 64 (height x width)")


@pytest.mark.parametrize("backbone", DEFAULT_SPACE["backbone"])
def test_usual_sizes_are_fine_for_all_backbones_that_are_searched(backbone):
    """Multiples of 32 are seen whole."""
    for size in (160, 224):
        assert training_problem(Recipe(backbone=backbone, image_size=size)) is None


def test_a_space_is_refused_for_each_size_that_a_backbone_of_it_would_cut(tmp_path):
    """Where backbone and size are both searched, each pair that leaves pixels out is told before weights are sought."""
    space = Space({"backbone": ["test_resnet", "test_convnext"], "image_size": [32, 33, 34]})
    with pytest.raises(RecipeError) as refused:
        check_backbones(space, 2, tmp_path)
    assert refused.value.problems == [
        f'backbone: "test_convnext" sees only 32 x 32 pixels where image_size = {size}; take 32 or 64'
        for size in (33, 34)
    ]


def test_what_was_trained_before_still_works():
    """A model is built at a size of which it does not see all pixels: for bundles and winners of earlier versions."""
    recipe = Recipe(backbone="test_convnext", image_size=33, pretrained=False)
    assert training_problem(recipe)
    model = build_model(recipe, 2, Extensions(), pretrained=False)
    assert model(torch.zeros(1, 33, 33, 3, dtype=torch.uint8)).shape == (1, 2)


def test_looking_changes_no_random_number():
    """The generator from which a training draws stands as before, also where a model had to be run."""
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert unseen_problem("test_convnext", 44)
    assert torch.equal(torch.rand(3), expected)
