"""Which image sizes a timm backbone takes: those with which it works, and of which it sees every pixel."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from timm.models import get_pretrained_cfg
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.image_size import shape_of, size_of
from trainer.model.timm_models import create_backbone, first_line, size_argument
from trainer.recipe import recipe_from, value_problem
from trainer.rules import show

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from trainer.image_size import ImageSize

# The models fail with many types of errors, also divisions by zero and assertions without a text.
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
REACH = 32  # pixels, up and down, in which another size is looked for: most models take the multiples of 32
FAINT = 1e-3  # of the usual gradient of a row: a row below that is not seen. (A ConvNeXt begins with branches of 1e-6.)

_aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class DryRun:
    """A backbone that was given an image without computing anything: shapes only.

    Attributes:
        model: the backbone, for two classes, without weights; None where it does not work with this size.
        error: why it does not work with this size; None where it does.
        patch: side of the patches that it cuts the image into; 1 where its first windows overlap.
        seen: rows and columns that its first windows reach; None where not only windows look at the image.
        drops: whether any windows, also later ones, leave out the last rows or columns of what they look at.
    """

    model: nn.Module | None = None
    error: str | None = None
    patch: int = 1
    seen: tuple[int, int] | None = None
    drops: bool = False


@dataclass(eq=False)
class _Windows:
    """What the windows of convolutions and poolings look at while a model runs."""

    image: Tensor
    # rows and columns reached, and the side of the patches
    of_image: list[tuple[tuple[int, int], int] | None] = field(default_factory=list)
    drops: bool = False

    def note(self, operation: Any, given: tuple[Any, ...], made: Any) -> None:
        """Take in one operation with its arguments and its result."""
        reached, patch = [], 1
        for axis in (-2, -1):
            window = _window(operation, given, axis)
            if window is None:
                break
            kernel, stride, padding, dilation = window
            lines, reach = given[0].shape[axis], dilation * (kernel - 1) + 1
            result = made[0] if isinstance(made, tuple) else made
            reached.append(min(lines, (result.shape[axis] - 1) * stride + reach - padding))
            # Windows that are smaller than their stride skip lines everywhere, as those of shortcuts do on purpose.
            self.drops = self.drops or lines - reached[-1] > max(0, stride - reach)
            patch = stride if kernel == stride else 1
        if given and given[0] is self.image:
            self.of_image.append(((reached[0], reached[1]), patch) if reached else None)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells of each operation."""

    def __init__(self, note: Callable[[Any, tuple[Any, ...], Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self._note(func, args, made)
        return made


@cache
def size_failure(name: str, size: ImageSize) -> str | None:
    """Say why a timm backbone cannot work with an image size, and which sizes it takes, or None."""
    error = dry_run(name, size).error
    return error and f'backbone: "{name}" cannot work with image_size = {show(size)}: {error}; {_advice(name, size)}'


@cache
def unseen_problem(name: str, size: ImageSize) -> str | None:
    """Say that a timm backbone would not see all pixels at an image size that it works with, or None."""
    if _sees_all(name, size):
        return None
    rows, columns = _seen(name, size)
    only = f"sees only {rows} x {columns} pixels where image_size = {show(size)}"
    return f'backbone: "{name}" {only}; {_advice(name, size)}'


@cache
def dry_run(name: str, size: ImageSize) -> DryRun:
    """Give a timm backbone that exists an image of this size."""
    try:
        with torch.device("meta"), torch.no_grad():
            model = create_backbone(recipe_from({"backbone": name, "image_size": size}), 2).eval()
            windows = _Windows(torch.empty(1, 3, *shape_of(size)))
            with _Watch(windows.note):
                model(windows.image)
    except FAILURES as error:
        return DryRun(error=first_line(error))
    first = windows.of_image[0] if len(windows.of_image) == 1 else None
    if first is None:
        return DryRun(model, drops=windows.drops)
    reached, patch = first
    return DryRun(model, patch=patch, seen=reached, drops=windows.drops)


@cache
def _seen(name: str, size: ImageSize) -> tuple[int, int]:
    """How many rows and columns of an image a backbone sees that works with this size."""
    run, shape = dry_run(name, size), shape_of(size)
    if not run.drops:
        return shape
    if run.seen is not None and run.seen != shape:
        return run.seen
    # What later windows drop may have been seen by its neighbours before. The gradient tells, by random weights.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        model = _random_model(name, size if size_argument(name, size) else None)
        image = torch.randn(1, 3, *shape, requires_grad=True)
        [gradient] = torch.autograd.grad(model(image)[0, 0], image)
    lines = [gradient[0].abs().sum(dim=(0, axis)) for axis in (2, 1)]  # of each row, of each column
    rows, columns = (int((line > FAINT * line.median()).sum()) for line in lines)
    return rows, columns


def _sees_all(name: str, size: ImageSize) -> bool:
    return _seen(name, size) == shape_of(size)


@lru_cache(maxsize=1)  # for many sizes, one after the other
def _random_model(name: str, size: ImageSize | None) -> nn.Module:
    model = create_backbone(recipe_from({"backbone": name} | ({"image_size": size} if size else {})), 2).eval()
    for weight in model.parameters():
        if not weight.any():  # as new heads and the last weights of branches are, which let no gradient through
            nn.init.normal_(weight, std=0.1)
    return model


def _advice(name: str, size: ImageSize) -> str:
    """The nearest sizes that a backbone takes, one below and one above where there are such; else its own.

    Of a rectangle the nearest whose sides are those of squares that it takes.
    """
    config = get_pretrained_cfg(name)
    own = config.input_size[-1] if config else max(shape_of(size))
    patch = dry_run(name, own).patch
    if isinstance(size, int):
        found: list[ImageSize] = [side for side in _near(name, size, patch) if side is not None]
    else:
        height, width = (_nearest(name, side, patch) for side in shape_of(size))
        fitting = height and width and _fits(name, size_of(height, width))
        found = [size_of(height, width)] if fitting and height and width else []
    return f"take {' or '.join(map(show, found)) or own}"


def _near(name: str, side: int, patch: int) -> tuple[int | None, int | None]:
    """The sides of the nearest squares that a backbone takes, one below and one above."""
    near = [
        each
        for each in range(side - REACH, side + REACH + 1)
        if each % patch == 0 and value_problem("image_size", each, ()) is None
    ]
    below = (each for each in reversed(near) if each < side and _fits(name, each))
    above = (each for each in near if each > side and _fits(name, each))
    return next(below, None), next(above, None)


def _nearest(name: str, side: int, patch: int) -> int | None:
    """The side itself where a backbone takes its square, else that of the nearest one."""
    if _fits(name, side):
        return side
    return min((each for each in _near(name, side, patch) if each), key=lambda each: abs(each - side), default=None)


def _fits(name: str, size: ImageSize) -> bool:
    return not dry_run(name, size).error and _sees_all(name, size)


def _window(operation: Any, given: tuple[Any, ...], axis: int) -> tuple[int, int, int, int] | None:
    """Kernel, stride, padding and dilation of a convolution or pooling along an axis, -2 or -1; None for others."""

    def along(values: Any) -> int:
        return int(values[axis] if len(values) > 1 else values[0])

    if operation is _aten.convolution.default:
        _, weight, _, stride, padding, dilation = given[:6]
        if weight.dim() != 4:
            return None
        return weight.shape[axis], along(stride), along(padding), along(dilation)
    if operation in (_aten.avg_pool2d.default, _aten.max_pool2d_with_indices.default):
        kernel = given[1]
        stride = given[2] if len(given) > 2 and given[2] else kernel
        padding = given[3] if len(given) > 3 else [0]
        dilation = given[4] if operation is _aten.max_pool2d_with_indices.default and len(given) > 4 else [1]
        return along(kernel), along(stride), along(padding), along(dilation)
    return None
