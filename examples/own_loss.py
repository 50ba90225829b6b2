"""An `hpo` with a loss of one's own: `python own_loss.py search own_loss.toml`, and every other command likewise."""

import torch

from hpo.cli import main
from trainer.extensions import Extensions


def squared_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Brier score: the squared distance of the probabilities from the truth."""
    truth = torch.nn.functional.one_hot(labels, logits.shape[1])
    return ((logits.softmax(dim=1) - truth) ** 2).sum(dim=1).mean()


if __name__ == "__main__":
    main(extensions=Extensions(losses={"squared_error": squared_error}))
