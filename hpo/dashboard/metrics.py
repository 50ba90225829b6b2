"""How a search stands, in the text format that Prometheus reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from storage.heartbeat import GRACE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from hpo.study.status import Snapshot


class SearchMetrics:
    """The metrics of a search, each with its study as a label; what is not known yet has no value.

    Args:
        snapshot: how the search stands.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """The metrics, as a registry of prometheus_client asks for them."""
        search = self._snapshot
        study = search.study
        trials = GaugeMetricFamily("hpo_trials", "Trials by state.", labels=("study", "state"))
        for state, count in search.counts.items():
            trials.add_metric((study, state), count)
        yield trials
        best, metric = search.best, search.metric
        value = GaugeMetricFamily(
            "hpo_best_value",
            "Best value of the metric by which trials are compared, on the validation images.",
            labels=("study", "metric"),
        )
        if best:
            value.add_metric((study, metric.name), metric.value(best.score))
        yield value
        alive = [each for each in search.present if each.beat_seconds_ago < GRACE_SECONDS]
        heard_of = min((each.beat_seconds_ago for each in search.workers), default=None)
        for name, text, amount in (
            ("hpo_best_macro_f1", "Validation macro-F1 of the best trial, in [0, 1].", best.macro_f1 if best else None),
            ("hpo_workers", f"Workers heard of in the last {GRACE_SECONDS:.0f} s.", len(alive)),
            ("hpo_last_beat_seconds", "Seconds since a worker was last heard of.", heard_of),
            ("hpo_finished", "1 once the search is over.", search.finished),
            ("hpo_halted", "1 while the search is paused or stopped.", search.halt is not None),
        ):
            gauge = GaugeMetricFamily(name, text, labels=("study",))
            if amount is not None:
                gauge.add_metric((study,), amount)
            yield gauge
        hours = CounterMetricFamily("hpo_gpu_hours", "Hours that trials have run, of all workers.", labels=("study",))
        hours.add_metric((study,), search.used.gpu_hours)
        yield hours


def metrics_of(snapshot: Snapshot) -> bytes:
    """The metrics of a search as text."""
    registry = CollectorRegistry()
    registry.register(SearchMetrics(snapshot))
    return generate_latest(registry)
