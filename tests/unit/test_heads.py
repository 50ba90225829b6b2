"""Poolings and heads that timm does not have, and how a new head begins."""

import math
import re

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cosine_similarity

from trainer.errors import RecipeError
from trainer.extensions import Extensions
from trainer.model.backbones import build_model, load_weights, save_weights
from trainer.model.heads import CosineHead, GeneralizedMean, use_cosine_head
from trainer.recipe import Recipe

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]

WITH_FEATURE_MAP = ["test_resnet", "test_efficientnet", "test_convnext", "swin_tiny_patch4_window7_224"]


def _images(side=32):
    torch.manual_seed(0)
    return torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)


def _built(backbone, **changes):
    recipe = Recipe(backbone=backbone, image_size=64 if "swin" in backbone else 32, pretrained=False, **changes)
    return build_model(recipe, 5, Extensions(), pretrained=False)


@pytest.mark.parametrize("power", [1.0, 3.0, 50.0])
def test_generalised_mean(power):
    """The generalised mean is (mean of x^p)^(1/p): the average for p = 1, nearly the maximum for a large p."""
    features = torch.rand(2, 4, 3, 5) + 0.1
    pool = GeneralizedMean((2, 3), flatten=True)
    pool.power.data.fill_(power)
    expected = features.double().pow(power).mean((2, 3)).pow(1 / power)
    torch.testing.assert_close(pool(features).double(), expected, rtol=1e-4, atol=1e-5)
    if power == 1:
        torch.testing.assert_close(pool(features), features.mean((2, 3)))
    if power == 50:
        torch.testing.assert_close(pool(features), features.amax((2, 3)), rtol=0.06, atol=0)
    assert GeneralizedMean((2, 3), flatten=False)(features).shape == (2, 4, 1, 1)
    assert GeneralizedMean((1, 2), flatten=True)(features).shape == (2, 5)


@pytest.mark.parametrize("backbone", WITH_FEATURE_MAP)
def test_generalised_mean_with_power_1_is_the_average(backbone):
    """In any timm model with a feature map of positive values, the generalised mean with p = 1 is average pooling."""
    torch.manual_seed(1)
    plain = _built(backbone, pooling="avg").eval()
    pooled = _built(backbone, pooling="gem").eval()
    missing = pooled.backbone.load_state_dict(plain.backbone.state_dict(), strict=False)
    assert [name.rpartition(".")[2] for name in missing.missing_keys] == ["power"]
    [pool] = [module for module in pooled.modules() if isinstance(module, GeneralizedMean)]
    seen = []
    pool.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    side = 64 if "swin" in backbone else 32
    pool.power.data.fill_(1.0)
    pooled(_images(side))
    [(features, out)] = seen
    torch.testing.assert_close(out.flatten(), features.clamp_min(1e-6).mean(pool._dimensions).flatten())


def test_the_power_is_learned():
    """The power of the generalised mean has a gradient, and one that is finite where features are 0."""
    pool = GeneralizedMean((2, 3), flatten=True)
    features = torch.zeros(2, 4, 3, 3, requires_grad=True)
    pool(torch.relu(features)).sum().backward()
    assert pool.power.grad.isfinite().all()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("backbone", ["test_efficientnet", "mobilenetv3_small_050"])
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_new_head_begins_with_small_weights(backbone, pretrained, tmp_path):
    """A head that timm draws by the number of classes has torch's spread; all else is as timm draws or loads it."""
    torch.save(timm.create_model(backbone).state_dict(), tmp_path / f"{backbone}.pth")
    overlay = {"file": str(tmp_path / f"{backbone}.pth")} if pretrained else {}
    torch.manual_seed(1)
    drawn = timm.create_model(backbone, num_classes=5, pretrained=pretrained, pretrained_cfg_overlay=overlay)
    next_number = torch.rand(1)
    torch.manual_seed(1)
    recipe = Recipe(backbone=backbone, image_size=32)
    model = build_model(recipe, 5, Extensions(), pretrained=pretrained, weights=tmp_path).backbone
    assert torch.equal(torch.rand(1), next_number)

    differing = [
        name for name, weight in model.state_dict().items() if not torch.equal(weight, drawn.state_dict()[name])
    ]
    assert differing == ["classifier.weight"]
    weight, features = model.classifier.weight, model.classifier.in_features
    assert weight.std().item() == pytest.approx(1 / math.sqrt(3 * features))
    torch.testing.assert_close(weight / weight.std(), drawn.classifier.weight / drawn.classifier.weight.std())


@pytest.mark.parametrize(
    ("backbone", "classes"), [("test_resnet", 2), ("test_vit", 2), ("test_convnext", 2), ("test_efficientnet", 1000)]
)
def test_a_new_head_with_fitting_weights_is_timms(backbone, classes):
    """Where timm does not draw a head too large, a model begins bit for bit as timm makes it."""
    torch.manual_seed(1)
    drawn = timm.create_model(backbone, num_classes=classes)
    torch.manual_seed(1)
    model = build_model(Recipe(backbone=backbone, image_size=160), classes, Extensions(), pretrained=False).backbone
    assert all(torch.equal(weight, drawn.state_dict()[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_vit", "test_mambaout"])
def test_cosine_head(backbone, tmp_path):
    """With arcface a model's logits are the scale times the cosine between its features and each class's weights."""
    model = _built(backbone, loss="arcface", arcface_scale=20.0).eval()
    [head] = [module for module in model.modules() if isinstance(module, CosineHead)]
    seen = []
    head.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.inference_mode():
        logits = model(_images())
    [features] = seen
    expected = 20 * cosine_similarity(features[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert logits.abs().max() <= 20.001

    save_weights(model, tmp_path / "weights.safetensors")
    other = _built(backbone, loss="arcface", arcface_scale=20.0).eval()
    load_weights(other, tmp_path / "weights.safetensors")
    with torch.inference_mode():
        assert torch.equal(other(_images()), logits)
    assert any(name.endswith("weight") for name in load_file(tmp_path / "weights.safetensors"))


def test_a_head_that_is_not_linear():
    """A model whose head is not one linear layer is told so before anything is trained with arcface."""
    with pytest.raises(
        RecipeError, match=r'^loss: "deit_tiny_distilled_patch16_224" cannot have the head of "arcface"'
    ):
        _built("deit_tiny_distilled_patch16_224", loss="arcface")
    with pytest.raises(ValueError, match="no linear head"):
        use_cosine_head(nn.Sequential(nn.Linear(2, 2)), 2, 16.0)


@pytest.mark.parametrize(
    ("backbone", "changes", "problem"),
    [
        (
            "test_vit",
            {"pooling": "gem"},
            r'pooling: "test_vit" cannot pool by "gem", write "default": .*no feature map.*',
        ),
        ("test_convnext", {"pooling": "catavgmax"}, r'pooling: "test_convnext" cannot pool by "catavgmax", .*'),
        ("vgg11", {"drop_path": 0.1}, r'drop_path: "vgg11" has none, write drop_path = 0.0: .*'),
    ],
)
def test_what_a_model_cannot_do(backbone, changes, problem):
    """A pooling or drop path that a model does not have is refused in one line that says what to write."""
    with pytest.raises(RecipeError) as error:
        _built(backbone, **changes)
    [line] = error.value.problems
    assert re.fullmatch(problem, line)


def test_dropout_and_drop_path_reach_the_model():
    """Dropout and drop path are those of timm's model, the drop path rising from layer to layer."""
    model = _built("test_convnext", dropout=0.3, drop_path=0.2).backbone
    assert model.head.drop.p == 0.3
    rates = [module.drop_prob for module in model.modules() if isinstance(module, timm.layers.DropPath)]
    assert max(rates) == pytest.approx(0.2)
    assert rates == sorted(rates)
