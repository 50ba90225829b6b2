"""From image files to probabilities."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from trainer import predict as predict_module
from trainer.calibration import Decision
from trainer.errors import DataError
from trainer.images.pixels import Reading, read_image
from trainer.model.backbones import build_model
from trainer.predict import TTA, Member, hard_vote, predict, reading_size, soft_vote, views

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")


@pytest.fixture
def member(extensions, make_recipe):
    """A model with random weights, always the same."""
    torch.manual_seed(4)
    return Member(build_model(make_recipe(), 3, extensions, pretrained=False).eval(), Reading(16, "bicubic"))


@pytest.fixture(scope="module")
def files(colours):
    """The first eleven files of the data."""
    return [colours.index.root / path for path in colours.index.paths][:11]


def _whole(members, files, **options):
    """The probabilities of all images, float32 [members, images, classes]."""
    return np.concatenate(list(predict(members, files, CPU, **options)), axis=1)


@pytest.mark.parametrize("tta", TTA)
def test_probabilities(member, files, tta):
    """The probabilities of each image are float32, lie in [0, 1] and sum to 1, with and without augmentation."""
    [probabilities] = predict([member], files, CPU, tta=tta)
    assert (probabilities.shape, probabilities.dtype) == ((1, 11, 3), np.float32)
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=2), 1, rtol=1e-6)


def test_output_of_the_model(member, files, colours):
    """The probabilities are the softmax of what the model says of the pixels it was trained with."""
    with torch.inference_mode():
        expected = member.model(torch.from_numpy(colours.pixels(Reading(16))[:11].copy())).softmax(dim=1).numpy()
    np.testing.assert_allclose(_whole([member], files)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("tta", TTA)
@pytest.mark.parametrize("batch_size", [1, 4, 11])
def test_order(member, files, batch_size, tta):
    """The order is that of the files, whatever the size of a batch; the last batch may be shorter."""
    [whole] = _whole([member], files, tta=tta)
    batches = [batch[0] for batch in predict([member], files, CPU, tta=tta, batch_size=batch_size)]
    assert [len(batch) for batch in batches] == [min(batch_size, 11 - start) for start in range(0, 11, batch_size)]
    np.testing.assert_allclose(np.concatenate(batches), whole, rtol=1e-5)
    [backwards] = _whole([member], files[::-1], tta=tta, batch_size=batch_size)
    np.testing.assert_allclose(backwards[::-1], whole, rtol=1e-5)
    assert abs(whole[0] - whole[1:]).max(axis=1).min() > 1e-4


def test_files_of_any_size_and_mode(member, tmp_path):
    """Large, grey and transparent images become the square that the model wants."""
    for number, (mode, size) in enumerate([("L", (40, 9)), ("RGBA", (5, 70)), ("P", (16, 16))]):
        Image.new(mode, size, 3).save(tmp_path / f"{number}.png")
    [probabilities] = predict([member], sorted(tmp_path.iterdir()), CPU)
    assert probabilities.shape == (1, 3, 3)
    assert np.isfinite(probabilities).all()


def test_one_at_a_time(member, files, tmp_path):
    """A batch is read when it is asked for: a broken file later on does not keep the first batch back."""
    (tmp_path / "broken.png").write_bytes(b"no image")
    batches = predict([member], [*files[:2], tmp_path / "broken.png"], CPU, batch_size=2)
    assert next(batches).shape == (1, 2, 3)
    with pytest.raises(DataError, match=r"broken\.png"):
        next(batches)


def test_no_files(member):
    """No files give no batches."""
    assert list(predict([member], [], CPU)) == []


class _Recorder(torch.nn.Module):
    """Keeps what it sees; its logits are those that the function gives for a batch of images."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.seen = logits, []

    def forward(self, images):
        self.seen.append(images)
        return self.logits(images.float())


def _brightness(images):
    """Logits [brightness of the picture, 0]: the same for a picture and its mirror image."""
    return torch.stack([images.mean(dim=(1, 2, 3)) / 16 - 7, torch.zeros(len(images))], dim=1)


def _left(images):
    """Logits [brightness of the left column, 0]: what a mirror image changes."""
    return _brightness(images[:, :, :1])


def test_flips_change_nothing_for_a_symmetric_model(files):
    """A model that cannot tell left from right gives the same probabilities with flips."""
    member = Member(_Recorder(_brightness), Reading(16, "bicubic"))
    np.testing.assert_allclose(_whole([member], files, tta="flip"), _whole([member], files), rtol=1e-6)
    assert len(member.model.seen) == 3


def test_flip_is_the_mean_of_both_sides(files):
    """With flips the probabilities are the mean over the picture and its mirror image, not of logits."""
    member = Member(_Recorder(_left), Reading(16, "bicubic"))
    found = _whole([member], files, tta="flip")[0]
    images = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files])).float()
    expected = (_left(images).softmax(1) + _left(images.flip(2)).softmax(1)) / 2
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
    assert abs(found - _left(images).softmax(1).numpy()).max() > 0.05


def test_each_crop_is_seen(tmp_path):
    """Crops are the four corners and the centre of the picture at 8/7 of the size, each as it is and mirrored."""
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    member = Member(_Recorder(_left), Reading(14, "bicubic"))
    found = _whole([member], [tmp_path / "a.png"], tta="crops")[0, 0]
    crops = [picture[top : top + 14, left : left + 14] for top in (0, 2) for left in (0, 2)] + [picture[1:15, 1:15]]
    expected = [crop for one in crops for crop in (one, one[:, ::-1])]
    np.testing.assert_array_equal(torch.cat(member.model.seen).numpy(), np.stack(expected))
    each = _left(torch.from_numpy(np.stack(expected)).float()).softmax(1)
    np.testing.assert_allclose(found, each.mean(dim=0).numpy(), rtol=1e-5)


@pytest.mark.parametrize(("size", "side"), [(8, 9), (14, 16), (32, 37), (224, 256), (384, 439)])
def test_size_of_crops(size, side):
    """Crops of 224 pixels come from a picture of 256, and every size has room for crops that differ."""
    assert reading_size(size, "crops") == side
    assert [reading_size(size, tta) for tta in ("none", "flip")] == [size, size]
    pictures = torch.zeros(1, side, side, 3, dtype=torch.uint8)
    assert {view.shape for view in views(pictures, size, "crops")} == {(1, size, size, 3)}


@pytest.mark.parametrize("tta", TTA)
@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_an_image_is_resized_as_in_the_training(tmp_path, tta, resize):
    """A model that was trained on cropped or padded rectangles predicts from such, also from several views."""
    Image.fromarray(np.random.default_rng(0).integers(1, 255, (40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    reading = Reading("14x28", resize=resize)
    member = Member(_Recorder(_left), reading)
    _whole([member], [tmp_path / "a.png"], tta=tta)
    seen = torch.cat(member.model.seen)
    assert seen.shape == ({"none": 1, "flip": 2, "crops": 10}[tta], 14, 28, 3)
    read = read_image(tmp_path / "a.png", replace(reading, size=reading_size(reading.size, tta)))
    assert read.shape == ((16, 32, 3) if tta == "crops" else (14, 28, 3))
    np.testing.assert_array_equal(seen[0], read[:14, :28])


def test_members_see_their_own_pixels(files, monkeypatch):
    """Each of several models gets its own size and interpolation, and what is the same is decoded once."""
    decoded = []
    original = predict_module.read_image
    monkeypatch.setattr(predict_module, "read_image", lambda *a: decoded.append(a[1:]) or original(*a))
    wants = [(16, "bicubic"), (8, "bicubic"), (16, "bilinear"), (8, "bicubic")]
    members = [Member(_Recorder(_brightness), Reading(*want)) for want in wants]
    found = _whole(members, files, batch_size=11)
    decoded = [(reading.size, reading.interpolation) for (reading,) in decoded]
    assert sorted(decoded) == sorted([(16, "bicubic"), (8, "bicubic"), (16, "bilinear")] * 11)
    assert found.shape == (4, 11, 2)
    for number, member in enumerate(members):
        assert member.model.seen[0].shape == (11, *member.reading.shape, 3)
        np.testing.assert_array_equal(_whole([member], files)[0], found[number])
    np.testing.assert_array_equal(found[1], found[3])


THREE = np.array(
    [
        [[0.6, 0.4, 0.0], [0.2, 0.3, 0.5], [0.5, 0.1, 0.4]],
        [[0.6, 0.4, 0.0], [0.9, 0.1, 0.0], [0.1, 0.2, 0.7]],
        [[0.0, 1.0, 0.0], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9]],
    ],
    np.float32,
)  # three models, three images, three classes


def test_soft_voting():
    """Soft voting is the mean of the probabilities, and its class the one with the highest mean."""
    probabilities, predicted = soft_vote(THREE)
    np.testing.assert_allclose(
        probabilities, [[0.4, 0.6, 0], [1.3 / 3, 1.1 / 3, 0.2], [0.2, 0.4 / 3, 2 / 3]], 1e-5, 1e-6
    )
    assert predicted.tolist() == [1, 0, 2]
    assert probabilities.dtype == np.float32


def test_hard_voting():
    """Hard voting gives each model one vote; where classes have equally many, the highest mean probability decides."""
    shares, predicted = hard_vote(THREE)
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3], [1 / 3, 0, 2 / 3]], atol=1e-6)
    assert shares.dtype == np.float32
    assert predicted.tolist() == [0, 0, 2]
    tie = np.array([[[0.6, 0.4]], [[0.1, 0.9]]], np.float32)
    shares, predicted = hard_vote(tie)
    assert shares.tolist() == [[0.5, 0.5]]
    assert predicted.tolist() == [1]


def test_members_vote_by_their_own_decisions():
    """Temperatures come before the mean, offsets before the choice: the mean of them, or each in its own vote."""
    two = np.array([[[0.8, 0.2], [0.6, 0.4]], [[0.3, 0.7], [0.6, 0.4]]], np.float32)
    flat, shifted = Decision(temperature=20.0), Decision(offsets=(0.0, 1.2))
    probabilities, predicted = soft_vote(two, [flat, Decision()])
    np.testing.assert_allclose(probabilities[0], [(0.517 + 0.3) / 2, (0.483 + 0.7) / 2], atol=1e-3)
    assert predicted.tolist() == [1, 0]
    assert soft_vote(two)[1].tolist() == [0, 0]
    probabilities, predicted = soft_vote(two, [Decision(), shifted])
    np.testing.assert_array_equal(probabilities, soft_vote(two)[0])
    assert predicted.tolist() == [1, 1]  # 0.6 log-odds beside 0.2 and 0.41
    shares, predicted = hard_vote(two, [Decision(), shifted])
    assert shares.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert hard_vote(two)[0].tolist() == [[0.5, 0.5], [1, 0]]


def test_votings_of_random_models():
    """Both votings agree with the plain count and mean, image by image."""
    random = np.random.default_rng(0).dirichlet(np.ones(4), (5, 200)).astype(np.float32)
    soft, best = soft_vote(random)
    shares, chosen = hard_vote(random)
    for image in range(200):
        mean = [sum(random[member, image, number] for member in range(5)) / 5 for number in range(4)]
        votes = [sum(random[member, image].argmax() == number for member in range(5)) for number in range(4)]
        np.testing.assert_allclose(soft[image], mean, rtol=1e-5)
        assert best[image] == int(np.argmax(mean))
        np.testing.assert_allclose(shares[image], np.array(votes) / 5, rtol=1e-6)
        assert chosen[image] == max(range(4), key=lambda number: (votes[number], mean[number]))


@pytest.mark.parametrize("vote", [soft_vote, hard_vote])
def test_one_model_alone(vote):
    """A model that votes alone decides."""
    probabilities, predicted = vote(THREE[:1])
    assert predicted.tolist() == THREE[0].argmax(axis=1).tolist()
    assert probabilities.argmax(axis=1).tolist() == predicted.tolist()
