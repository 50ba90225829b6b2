"""Where a training stands between two of its steps, as a value and as a file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save

from trainer.errors import CheckpointError
from trainer.recipe import DEFAULTS, show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from trainer.recipe import Recipe

    Capture = Callable[[], "Checkpoint"]

FORMAT = "1"  # version of the file format
DIGEST_BYTES = sha256().digest_size


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a training stands between two of its steps: what goes on from it ends as if it had never stopped.

    Attributes:
        epochs_done: epochs that have ended, their validation included.
        steps_done: steps of the epoch after those; where they are all of its steps, only its validation is still to do.
        threads: of torch when it was captured; with another number the last bits of the weights are others.
        history: validation score of each ended epoch, the first first; empty where nothing is validated.
        values: whatever else JSON can hold, the recipe among it.
        tensors: on the CPU, by names that begin with what they belong to and a dot: `model.`, `optimizer.`, `average.`.
    """

    epochs_done: int
    steps_done: int
    threads: int
    history: list[float]
    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def train_losses(self) -> list[float]:
        """Mean train loss of each ended epoch, the first first; NaN where the program that wrote it kept none."""
        return list(self.values.get("train_losses", [math.nan] * self.epochs_done))

    def refuse_other_recipe(self, recipe: Recipe) -> None:
        """Raise CheckpointError unless it is one of a training by this recipe."""
        # A recipe of an older program lacks the fields that are new since; these had their defaults then.
        then, now = {**DEFAULTS, **self.values["recipe"]}, asdict(recipe)
        if then != now:
            changed = ", ".join(
                f"{name} was {show(then.get(name))} and is {show(now.get(name))}"
                for name in {**now, **then}
                if then.get(name) != now.get(name)
            )
            raise CheckpointError(f"the checkpoint is of another recipe ({changed}): begin this training anew")


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """These tensors under names that begin with this prefix and a dot."""
    return {f"{prefix}.{key}": tensor for key, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with this prefix and a dot, by the rest of their names."""
    return {key.removeprefix(f"{prefix}."): tensor for key, tensor in tensors.items() if key.startswith(f"{prefix}.")}


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, laid out one value after the other, each with memory of its own."""
    # Some models (coat) have one tensor under several names, which safetensors refuses.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def encode(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as a file: the SHA-256 digest of what follows, then safetensors."""
    values = {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint) if item.name != "tensors"}
    body: bytes = save(dict(checkpoint.tensors), {"format": FORMAT, "checkpoint": json.dumps(values)})
    return sha256(body).digest() + body


def decode(content: bytes) -> Checkpoint:
    """The checkpoint in a file that `encode` made.

    Raises:
        CheckpointError: it is not whole, or comes from another version of this program.
    """
    digest, body = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if digest != sha256(body).digest():
        raise CheckpointError("the file is cut short or damaged")
    header = int.from_bytes(body[:8], "little")  # where safetensors has the length of its header
    metadata = json.loads(body[8 : 8 + header])["__metadata__"]
    if metadata["format"] != FORMAT:
        raise CheckpointError(f"the file has format {metadata['format']}, and this version reads {FORMAT}")
    return Checkpoint(**json.loads(metadata["checkpoint"]), tensors=load(body))
