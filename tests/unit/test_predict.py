"""From image files to probabilities."""

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.backbones import build_model
from trainer.errors import DataError
from trainer.predict import predict

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")


@pytest.fixture
def model(parts, make_recipe):
    """A model with random weights, always the same."""
    torch.manual_seed(4)
    return build_model(make_recipe(), 3, parts, pretrained=False).eval()


@pytest.fixture(scope="module")
def files(colours):
    """The first eleven files of the data."""
    return [colours.index.root / path for path in colours.index.paths][:11]


def test_probabilities(model, files):
    """The probabilities of each image are float32, lie in [0, 1] and sum to 1."""
    [probabilities] = predict(model, files, 16, CPU)
    assert (probabilities.shape, probabilities.dtype) == ((11, 3), np.float32)
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


def test_output_of_the_model(model, files, colours):
    """The probabilities are the softmax of what the model says of the pixels it was trained with."""
    with torch.inference_mode():
        expected = model(torch.from_numpy(colours.pixels(16)[:11].copy())).softmax(dim=1).numpy()
    np.testing.assert_allclose(np.concatenate(list(predict(model, files, 16, CPU))), expected, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 11])
def test_order(model, files, batch_size):
    """The order is that of the files, whatever the size of a batch; the last batch may be shorter."""
    [whole] = predict(model, files, 16, CPU)
    batches = list(predict(model, files, 16, CPU, batch_size))
    assert [len(batch) for batch in batches] == [min(batch_size, 11 - start) for start in range(0, 11, batch_size)]
    np.testing.assert_allclose(np.concatenate(batches), whole, rtol=1e-5)
    backwards = np.concatenate(list(predict(model, files[::-1], 16, CPU, batch_size)))
    np.testing.assert_allclose(backwards[::-1], whole, rtol=1e-5)
    assert abs(whole[0] - whole[1:]).max(axis=1).min() > 1e-4


def test_files_of_any_size_and_mode(model, tmp_path):
    """Large, grey and transparent images become the square that the model wants."""
    for number, (mode, size) in enumerate([("L", (40, 9)), ("RGBA", (5, 70)), ("P", (16, 16))]):
        Image.new(mode, size, 3).save(tmp_path / f"{number}.png")
    [probabilities] = predict(model, sorted(tmp_path.iterdir()), 16, CPU)
    assert probabilities.shape == (3, 3)
    assert np.isfinite(probabilities).all()


def test_one_at_a_time(model, files, tmp_path):
    """A batch is read when it is asked for: a broken file later on does not keep the first batch back."""
    (tmp_path / "broken.png").write_bytes(b"no image")
    batches = predict(model, [*files[:2], tmp_path / "broken.png"], 16, CPU, batch_size=2)
    assert len(next(batches)) == 2
    with pytest.raises(DataError, match=r"broken\.png"):
        next(batches)


def test_no_files(model):
    """No files give no batches."""
    assert list(predict(model, [], 16, CPU)) == []
