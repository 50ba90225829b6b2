"""How a run ends that raises."""

from __future__ import annotations

import pytest
import torch

from hpo.worker.ends import Failed, Requeued, end_after

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("works", [True, False])
def test_whatever_is_raised_where_the_gpu_is_lost_leaves_the_trial_to_another_worker(works, monkeypatch):
    """An error fails its trial where the GPU works on; where it does not, the worker ends and the trial waits."""

    def synchronize(device):
        if not works:
            raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    error = RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
    reason = "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"
    requeued = Requeued(reason, failed=True, device_error=error)
    assert end_after(error, torch.device("cuda")) == (Failed(reason) if works else requeued)
    assert end_after(error, torch.device("cpu")) == Failed(reason)
