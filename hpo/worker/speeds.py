"""How long the models of a study take for an image: measured once a backbone, image size and kind of device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.database import one_at_a_time
from storage.keys import SPEED_KEY
from storage.outage_retry import retry_outages
from trainer.device import device_name
from trainer.model.size import image_milliseconds

if TYPE_CHECKING:
    import torch

    from hpo.study.open_study import OpenStudy
    from trainer.recipe import Recipe


class Speeds:
    """Measures the speeds of a study's models on one device, unless another worker has.

    Args:
        opened: the study, whose attributes keep what was measured.
        classes: number of outputs.
        device: on which this worker trains.
    """

    def __init__(self, opened: OpenStudy, classes: int, device: torch.device) -> None:
        self._opened, self._classes, self._device = opened, classes, device
        self._known: set[str] = set()  # keys of what is measured
        self._attributes: dict[str, dict[str, float]] = {}

    def milliseconds(self, recipe: Recipe) -> float:
        """What the recipe's model takes for one image by itself."""
        name = device_name(self._device)
        key = f"{SPEED_KEY}{recipe.backbone}, {recipe.image_size} px, {name}"
        if key not in self._attributes:
            retry_outages(self._opened.outage_retry, lambda: self._keep(key, recipe, name))
        return self._attributes[key]["milliseconds"]

    def _keep(self, key: str, recipe: Recipe, name: str) -> None:
        """Measure what nobody has measured; one worker at a time, so that none disturbs another's measurement."""
        study = self._opened.study
        self._attributes = study.user_attrs
        if key in self._attributes:
            return
        with one_at_a_time(self._opened.url):
            self._attributes = study.user_attrs
            if key not in self._attributes:
                taken = image_milliseconds(recipe, self._classes, self._opened.file.space.extensions, self._device)
                about = {"backbone": recipe.backbone, "image_size": recipe.image_size, "device": name}
                study.set_user_attr(key, {**about, "milliseconds": round(taken, 4)})
                self._attributes = study.user_attrs
