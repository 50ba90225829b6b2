"""MixUp and CutMix: pixels and labels follow one share, and the draws come from torch's seed alone."""

import numpy as np
import pytest
import torch

from trainer.augmentation.mixing import make_mixing
from trainer.recipe import Recipe

pytestmark = pytest.mark.unit

KINDS = ("mixup", "cutmix", "both")


def _batch(images=5, side=12):
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    return torch.from_numpy(pixels), torch.from_numpy(random.permutation(images))


def _mixed(seed, images, labels, **fields):
    torch.manual_seed(seed)
    return make_mixing(Recipe(**fields))(images, labels)


def _shares(draws=400, side=32, **fields):
    images, labels = _batch(2, side)
    mix = make_mixing(Recipe(**fields))
    torch.manual_seed(0)
    return np.array([mix(images, labels)[1].share for _ in range(draws)])


def test_none():
    """A recipe without mixing has no function for it, so that nothing is spent on it."""
    assert make_mixing(Recipe(mixing="none")) is None


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("seed", range(10))
def test_mixup(seed, size):
    """MixUp gives share x image + (1 - share) x the image before it, in float32, and that one's label."""
    images, labels = _batch(size)
    mixed, partners = _mixed(seed, images, labels, mixing="mixup", mixup_alpha=1.0)
    expected = partners.share * images.double() + (1 - partners.share) * images.roll(1, dims=0).double()
    assert mixed.dtype == torch.float32
    assert mixed.is_contiguous()
    assert 0 <= partners.share <= 1
    torch.testing.assert_close(mixed.double(), expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(partners.labels, labels.roll(1))


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("seed", range(10))
def test_cutmix(seed, size):
    """CutMix pastes one rectangle of the image before, whose area is exactly 1 - share, and keeps uint8."""
    images, labels = _batch(size)
    mixed, partners = _mixed(seed, images, labels, mixing="cutmix")
    assert mixed.dtype == torch.uint8
    assert mixed.shape == images.shape
    assert mixed.is_contiguous()
    assert torch.equal(partners.labels, labels.roll(1))
    others = images.roll(1, dims=0)
    pasted = (mixed == others).all(dim=3) & (images != others).any(dim=3)
    kept = (mixed == images).all(dim=3)
    if size == 1:
        assert kept.all()
        return
    assert (pasted ^ kept).all()
    assert (pasted == pasted[0]).all()
    assert pasted[0].double().mean().item() == pytest.approx(1 - partners.share, abs=1e-12)
    if pasted.any():
        rows, columns = pasted[0].any(dim=1).nonzero(), pasted[0].any(dim=0).nonzero()
        height, width = (int(ends[-1] - ends[0]) + 1 for ends in (rows, columns))
        assert height * width == pasted[0].sum()


def test_cutmix_rectangles_are_anywhere():
    """The rectangles of CutMix reach each pixel, and lie across and down alike."""
    images = torch.stack((torch.zeros(20, 20, 3), torch.ones(20, 20, 3))).to(torch.uint8)
    mix = make_mixing(Recipe(mixing="cutmix"))
    torch.manual_seed(0)
    often = sum(mix(images, torch.arange(2))[0][0, :, :, 0].double() for _ in range(600)) / 600
    assert often.min() > 0.05
    torch.testing.assert_close(often.mean(dim=0), often.mean(dim=1), rtol=0, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_function_of_the_seed(kind):
    """The same torch seed gives the same mixed batch, and other seeds others."""
    images, labels = _batch()
    before = images.clone(), labels.clone()
    results = set()
    for seed in range(20):
        mixed, partners = _mixed(seed, images, labels, mixing=kind)
        again, other = _mixed(seed, images, labels, mixing=kind)
        assert torch.equal(mixed, again)
        assert partners.share == other.share
        results.add(mixed.numpy().tobytes())
    assert len(results) > 10
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_generator(kind):
    """Nothing but torch's generator is drawn from."""
    images, labels = _batch()
    np.random.seed(1)  # noqa: NPY002
    state = str(np.random.get_state())  # noqa: NPY002
    _mixed(0, images, labels, mixing=kind)
    assert str(np.random.get_state()) == state  # noqa: NPY002


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("probability", "least", "most"), [(0.0, 0, 0), (0.3, 90, 150), (1.0, 400, 400)])
def test_probability(kind, probability, least, most):
    """So many batches are mixed as the recipe says, and the others are given back as they are."""
    images, labels = _batch()
    mix = make_mixing(Recipe(mixing=kind, mix_probability=probability))
    torch.manual_seed(0)
    results = [mix(images, labels) for _ in range(400)]
    assert least <= sum(partners is not None for _, partners in results) <= most
    assert all(mixed is images for mixed, partners in results if partners is None)


def test_both():
    """With both, each of MixUp and CutMix takes half of the mixed batches."""
    images, labels = _batch()
    mix = make_mixing(Recipe(mixing="both", mix_probability=0.5))
    torch.manual_seed(0)
    kinds = [mixed.dtype for mixed, partners in (mix(images, labels) for _ in range(800)) if partners]
    assert 340 < len(kinds) < 460
    assert 0.42 < kinds.count(torch.uint8) / len(kinds) < 0.58


@pytest.mark.parametrize(("kind", "field"), [("mixup", "mixup_alpha"), ("cutmix", "cutmix_alpha")])
def test_alpha(kind, field):
    """The share is drawn from Beta(alpha, alpha): near 0 or 1 for a small alpha, near a half for a great one."""
    spreads = []
    for alpha in (0.01, 0.2, 1.0, 10.0):
        shares = _shares(mixing=kind, **{field: alpha})
        assert ((shares >= 0) & (shares <= 1)).all()
        spreads.append(shares.std())
        if kind == "mixup":
            assert abs(shares.std() - 0.5 / np.sqrt(2 * alpha + 1)) < 0.04
            assert abs(shares.mean() - 0.5) < 0.08
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 2 * spreads[-1]
