"""The models: names, sizes, normalisation, files of weights."""

import dataclasses
import re

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import get_pretrained_cfg
from torch import nn

from trainer.errors import RecipeError, WeightsError
from trainer.extensions import Extensions
from trainer.images.pixels import Reading
from trainer.model.backbones import Classifier, build_model, interpolation_of, load_weights, save_weights
from trainer.model.feasibility import backbone_problem, check_backbones
from trainer.recipe import Recipe
from trainer.space import Space

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]

BACKBONES = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
HEADS = {"test_resnet": "fc", "test_vit": "head", "test_convnext": "head.fc"}


def _recipe(backbone, image_size=32, **changes):
    return Recipe(backbone=backbone, image_size=image_size, **changes)


def _built(backbone, classes=3, **options):
    return build_model(_recipe(backbone), classes, Extensions(), **({"pretrained": False} | options))


def _images(count=4, side=32):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def _published(folder, backbone, suffix=".safetensors"):
    """Put weights of the published shape into the folder and return them."""
    torch.manual_seed(11)
    state = timm.create_model(backbone).state_dict()
    file = folder / f"{backbone}{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    return state


@pytest.fixture
def hub_unreachable(monkeypatch):
    """No connection to the hub, found out at once, and nothing of it in a cache; lists who tried."""
    tried = []

    def refuse(*_, **options):
        tried.append(options)
        raise ConnectionError("[Errno 111] Connection refused\nsecond line")

    monkeypatch.setattr("trainer.model.pretrained.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("trainer.model.pretrained.get_hf_file_metadata", refuse)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    monkeypatch.setattr("timm.models._hub.download_cached_file", refuse)
    return tried


@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits(backbone):
    """A timm model takes uint8 images as they lie in memory and gives one logit a class."""
    assert backbone_problem(_recipe(backbone)) is None
    model = _built(backbone, classes=7).eval()
    with torch.inference_mode():
        logits = model(_images())
    assert (logits.shape, logits.dtype) == ((4, 7), torch.float32)
    assert logits.isfinite().all()


def test_initial_weights_belong_to_the_seed():
    """Random initial weights come from torch's global generator."""
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(_built("test_resnet").state_dict()["backbone.conv1.0.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [
        ("resnet5", 32, r'timm has no "resnet5"; did you mean "resnet50"\?'),
        ("resnet5.a1_in1k", 32, r'timm has no "resnet5\.a1_in1k"; did you mean "resnet50"\?'),
        ("%%%%", 32, r'timm has no "%%%%"'),
        ("test_resnet.r224", 32, r'timm has no weights "test_resnet\.r224"; it has test_resnet\.r160_in1k'),
        ("test_vit", 20, r'"test_vit" cannot work with image_size = 20: .*\(20\).*divisible by patch size \(16\).*'),
        ("botnet26t_256", 100, r'"botnet26t_256" cannot work with image_size = 100: AssertionError; take .*'),
        ("gcvit_xtiny", 30, r'"gcvit_xtiny" cannot work with image_size = 30: .*by zero; take 32'),
    ],
)
def test_problem(name, size, problem):
    """A backbone that does not exist, has no such weights or does not fit the image size is told in one line."""
    found = backbone_problem(_recipe(name, size))
    assert re.fullmatch(f"backbone: {problem}", found)
    with pytest.raises(RecipeError) as error:
        build_model(_recipe(name, size), 2, Extensions(), pretrained=False)
    assert error.value.problems == [found]


def test_no_problem():
    """A name with a tag that exists, and a model with a fixed size at another one that fits, are no problem."""
    assert backbone_problem(_recipe("test_resnet.r160_in1k", 33)) is None
    assert backbone_problem(_recipe("test_vit", 48)) is None
    assert build_model(_recipe("test_vit", 48), 2, Extensions(), pretrained=False)(_images(1, 48)).shape == (1, 2)


def test_own_backbone():
    """A model of one's own is called with the number of classes and the image side, and is not looked up in timm."""
    asked = []

    def own(classes, side):
        asked.append((classes, side))
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes))

    model = build_model(_recipe("resnet50"), 5, Extensions(backbones={"resnet50": own}), pretrained=True)
    assert asked == [(5, 32)]
    assert model(_images()).shape == (4, 5)


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [
        ("test_resnet", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("test_efficientnet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("own", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_normalisation(backbone, mean, std):
    """The backbone sees (x / 255 - mean) / std of its own weights, channels first; ImageNet's for one's own model."""
    own = Extensions(backbones={"own": lambda *_: nn.Identity()})
    model = build_model(_recipe(backbone), 3, own, pretrained=False)
    model.backbone = nn.Identity()
    images = _images()
    expected = (images.numpy() / 255 - np.array(mean)) / np.array(std)
    seen = model(images)
    assert seen.dtype == torch.float32
    np.testing.assert_allclose(seen.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert model.preprocessing()["mean"] == list(mean)
    assert model.preprocessing()["std"] == list(std)


@pytest.mark.parametrize(
    ("backbone", "interpolation"),
    [
        ("test_resnet", "bilinear"),
        ("test_efficientnet", "bicubic"),
        ("tf_efficientnet_b0.ns_jft_in1k", "bicubic"),
        ("own", "bicubic"),
        ("resnet50.nobody_made_this", "bicubic"),
        ("no_such_model", "bicubic"),
    ],
)
def test_interpolation(backbone, interpolation):
    """Images are resized as the backbone's weights know them; bicubic where there is nothing to know."""
    own = Extensions(backbones={"own": lambda *_: nn.Identity()})
    assert interpolation_of(backbone, own) == interpolation
    if backbone in ("own", "test_resnet", "test_efficientnet"):
        prepared = build_model(_recipe(backbone), 3, own, pretrained=False).preprocessing()
        assert prepared["interpolation"] == interpolation
        assert prepared["resize"] == f"stretch to a square, {interpolation} with antialiasing"


@pytest.mark.parametrize(
    ("says", "taken"), [("lanczos", "lanczos"), ("nearest", "nearest"), ("random", "bicubic"), (None, "bicubic")]
)
def test_unusual_interpolations(says, taken, monkeypatch):
    """What Pillow can do is taken as it is, anything else becomes bicubic."""
    config = dataclasses.replace(get_pretrained_cfg("test_resnet"), interpolation=says)
    monkeypatch.setattr("trainer.model.backbones.get_pretrained_cfg", lambda _: config)
    assert interpolation_of("test_resnet", Extensions()) == taken


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_round_trip(backbone, tmp_path):
    """Saved weights give the same logits in a new model, and in plain timm after the normalisation."""
    torch.manual_seed(1)
    model = _built(backbone)
    model.train()
    model(_images())  # batch norm moves its statistics
    save_weights(model.eval(), tmp_path / "weights.safetensors")
    torch.manual_seed(2)
    other = _built(backbone).eval()
    plain = timm.create_model(backbone, num_classes=3, **({"img_size": 32} if backbone == "test_vit" else {})).eval()
    with torch.inference_mode():
        expected = model(_images())
        assert not torch.equal(other(_images()), expected)
        load_weights(other, tmp_path / "weights.safetensors")
        assert torch.equal(other(_images()), expected)
        plain.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        prepared = model.preprocessing()
        normal = (_images() / 255 - torch.tensor(prepared["mean"])) / torch.tensor(prepared["std"])
        torch.testing.assert_close(plain(normal.permute(0, 3, 1, 2)), expected, rtol=1e-4, atol=1e-5)


def test_weights_of_shared_tensors(tmp_path):
    """A model that has one tensor under several names can be saved and read back."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = self.first

    model = Classifier(Shared(), (0.5,) * 3, (0.5,) * 3, Reading(8))
    save_weights(model, tmp_path / "weights.safetensors")
    other = Classifier(Shared(), (0.5,) * 3, (0.5,) * 3, Reading(8))
    load_weights(other, tmp_path / "weights.safetensors")
    assert torch.equal(other.backbone.first.weight, model.backbone.first.weight)


def test_weights_in_channels_last(tmp_path):
    """A model in channels-last memory, as on a GPU, is saved like any other."""
    model = _built("test_resnet").eval()
    save_weights(model, tmp_path / "plain.safetensors")
    save_weights(model.to(memory_format=torch.channels_last), tmp_path / "last.safetensors")
    assert (tmp_path / "last.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("backbone", "suffix"),
    [("test_resnet", ".safetensors"), ("test_resnet", ".pth"), ("test_vit", ".pt"), ("test_convnext", ".bin")],
)
def test_pretrained_from_a_folder(backbone, suffix, tmp_path, hub_unreachable):
    """Pretrained weights come from the folder without a word to the hub; only the head is new."""
    published = _published(tmp_path, backbone, suffix)
    torch.manual_seed(5)
    state = _built(backbone, pretrained=True, weights=tmp_path).backbone.state_dict()
    head = HEADS[backbone]
    for name, value in state.items():
        if name.startswith(f"{head}."):
            assert value.shape[0] == 3
        elif name != "pos_embed":  # fitted to the number of patches
            assert torch.equal(value, published[name])
    assert state[f"{head}.weight"].std() > 0
    assert hub_unreachable == []


def test_pretrained_from_a_file(tmp_path, hub_unreachable):
    """Pretrained weights also come from one file, whatever its name, in the place of a folder."""
    published = _published(tmp_path, "test_resnet")
    file = (tmp_path / "test_resnet.safetensors").rename(tmp_path / "mine.safetensors")
    state = _built("test_resnet", pretrained=True, weights=file).backbone.state_dict()
    assert torch.equal(state["conv1.0.weight"], published["conv1.0.weight"])
    assert hub_unreachable == []
    with pytest.raises(WeightsError, match=r"has no weights of test_vit|cannot be loaded into test_vit"):
        _built("test_vit", pretrained=True, weights=file)


def test_broken_file(tmp_path):
    """A file that holds no weights is named in one line."""
    (tmp_path / "test_resnet.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(WeightsError) as error:
        _built("test_resnet", pretrained=True, weights=tmp_path)
    line = rf"weights: {re.escape(str(tmp_path))}/test_resnet\.safetensors cannot be loaded into test_resnet: .+"
    assert re.fullmatch(line, str(error.value))


def test_file_of_another_model(tmp_path):
    """Weights of another model are refused, where timm would leave them out and go on with random ones."""
    _published(tmp_path, "test_vit").clear()
    (tmp_path / "test_vit.safetensors").rename(tmp_path / "test_resnet.safetensors")
    with pytest.raises(WeightsError, match=r"^weights: \S+test_resnet\.safetensors has no weights of test_resnet; .+$"):
        _built("test_resnet", pretrained=True, weights=tmp_path)


def test_file_of_a_part_of_the_model(tmp_path):
    """Weights of a part of the model are refused, where timm would leave the rest random without a word."""
    state = _published(tmp_path, "test_resnet")
    part = {name: value for name, value in state.items() if not name.startswith("layer3")}
    save_file(part, tmp_path / "test_resnet.safetensors")
    line = r"^weights: \S+test_resnet\.safetensors lacks \d+ of the \d+ weights of test_resnet, as layer3\.0\.\S+; .+$"
    with pytest.raises(WeightsError, match=line):
        _built("test_resnet", pretrained=True, weights=tmp_path)


@pytest.mark.parametrize("folder", [True, False])
def test_hub_unreachable(folder, tmp_path, hub_unreachable):
    """Without a file and without the hub, which is asked but once, one line says what was tried and what to do."""
    with pytest.raises(WeightsError) as error:
        _built("test_resnet", pretrained=True, weights=tmp_path if folder else None)
    assert hub_unreachable == [{"timeout": 10.0}]
    looked = f"{tmp_path} has no test_resnet.safetensors, and " if folder else ""
    assert str(error.value) == (
        f"weights: {looked}the pretrained weights of test_resnet cannot be fetched from the hub "
        "([Errno 111] Connection refused); connect to it, or put test_resnet.safetensors into a folder and name it in "
        "[study] weights, or set pretrained = false"
    )


def test_hub_lost_after_its_answer(hub_unreachable, monkeypatch):
    """Where the hub answers and the download fails, the line is the same."""
    monkeypatch.setattr("trainer.model.pretrained.get_hf_file_metadata", lambda *_, **__: None)
    with pytest.raises(WeightsError, match=r"^weights: .* \(\[Errno 111\] Connection refused\); connect to it, .*$"):
        _built("test_resnet", pretrained=True)
    assert hub_unreachable


def test_cached_weights_need_no_hub(hub_unreachable, monkeypatch, tmp_path):
    """Weights that were downloaded before are loaded without a question to the hub."""
    published = _published(tmp_path, "test_resnet")
    cached = str(tmp_path / "test_resnet.safetensors")
    monkeypatch.setattr("trainer.model.pretrained.try_to_load_from_cache", lambda *_: cached)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *_, **__: cached)
    state = _built("test_resnet", pretrained=True).backbone.state_dict()
    assert torch.equal(state["conv1.0.weight"], published["conv1.0.weight"])
    assert hub_unreachable == []


def test_model_without_published_weights(hub_unreachable):
    """A model of which no weights were ever published is told so in one line, without a question to the hub."""
    with pytest.raises(WeightsError, match=r"^weights: .* test_mambaout .*\(No pretrained weights exist .*$"):
        _built("test_mambaout", pretrained=True)
    assert hub_unreachable == []


def test_check_names_all_problems(hub_unreachable):
    """All backbones that do not exist or do not fit an image size are named together, each once."""
    space = Space({"backbone": ["resnet5", "test_vit", "test_resnet", "mine"], "image_size": [20, 32, 36]})
    with pytest.raises(RecipeError) as error:
        check_backbones(space, 3)
    sentences = [problem.partition(":")[2].strip() for problem in error.value.problems]
    assert sentences[0] == 'timm has no "resnet5"; did you mean "resnet50"?'
    assert sentences[1].startswith('"test_vit" cannot work with image_size = 20')
    assert sentences[2].startswith('"test_vit" cannot work with image_size = 36')
    assert sentences[3].startswith('timm has no "mine"')
    assert len(sentences) == 4
    assert hub_unreachable == []


def test_check_names_backbones_that_cannot_learn_from_one_image():
    """Batches of one are refused where batch norm would have a single value, and only there."""
    fields = {
        "backbone": ["test_resnet", "test_vit"],
        "pretrained": False,
        "image_size": [32, 96],
        "batch_size": [8, 1],
    }
    with pytest.raises(RecipeError) as error:
        check_backbones(Space(fields), 3)
    [problem] = error.value.problems
    assert problem.startswith('batch_size: "test_resnet" cannot learn from 1 image at a time where image_size = 32: ')
    assert problem.endswith("; take 2")
    check_backbones(Space(fields | {"batch_size": [8, 2]}), 3)


def test_check_looks_for_the_weights(tmp_path, hub_unreachable):
    """The check wants the weights of each backbone if a trial may want them, and no others."""
    fields = {"backbone": ["test_resnet", "mine"], "image_size": 32}
    own = Extensions(backbones={"mine": lambda *_: nn.Identity()})
    check_backbones(Space(fields | {"pretrained": False}, own), 3)
    assert hub_unreachable == []
    with pytest.raises(WeightsError, match="test_resnet"):
        check_backbones(Space(fields | {"pretrained": [False, True]}, own), 3, tmp_path)
    assert hub_unreachable
    _published(tmp_path, "test_resnet")
    check_backbones(Space(fields | {"pretrained": True}, own), 3, tmp_path)


class Code:
    """What is run when it is unpickled."""

    def __reduce__(self):
        """The code."""
        return pytest.fail, ("a file of weights has run code",)


def test_a_file_of_weights_runs_no_code(tmp_path):
    """A .pth with more in it than tensors is refused with a line, and none of it is run."""
    torch.save({"conv1.weight": Code()}, tmp_path / "test_resnet.pth")
    with pytest.raises(WeightsError, match=r"test_resnet\.pth cannot be loaded into test_resnet"):
        build_model(Recipe(backbone="test_resnet"), 3, Extensions(), pretrained=True, weights=tmp_path)
