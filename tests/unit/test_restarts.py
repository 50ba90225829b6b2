"""When a worker that has died starts again, and why it has died."""

from __future__ import annotations

import pytest

from hpo.supervision.restarts import Restarts, explain_death

pytestmark = pytest.mark.unit


def test_pauses_double_up_to_a_minute():
    """A worker that dies again and again after some work starts again after 1, 2, 4 … seconds, at most 60."""
    restarts = Restarts()
    pauses = [restarts.pause_after(40, worked=False) for _ in range(9)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(("lived", "worked"), [(61, False), (5, True)])
def test_pauses_begin_anew_after_a_life_that_was_long_or_of_use(lived, worked):
    """After more than a minute, or an epoch, the next start comes in a second again."""
    restarts = Restarts()
    assert [restarts.pause_after(40, worked=False) for _ in range(3)] == [1, 2, 4]
    assert restarts.pause_after(lived, worked=worked) == 1
    assert restarts.pause_after(40, worked=False) == 2


def test_a_worker_that_dies_at_once_is_given_up_the_fifth_time():
    """Five deaths within half a minute of the start, in a row, and the worker is not started again."""
    restarts = Restarts()
    assert [restarts.pause_after(29, worked=False) for _ in range(5)] == [1, 2, 4, 8, None]


@pytest.mark.parametrize(("lived", "worked"), [(30, False), (5, True)])
def test_a_life_of_some_use_is_no_death_at_once(lived, worked):
    """A worker that lived for half a minute, or has brought a trial forward, may die at once five times again."""
    restarts = Restarts()
    deaths = [(5, False)] * 4 + [(lived, worked)] + [(5, False)] * 5
    pauses = [restarts.pause_after(seconds, worked=epochs) for seconds, epochs in deaths]
    assert [pause is None for pause in pauses] == [False] * 9 + [True]


@pytest.mark.parametrize(
    ("code", "printed", "cause", "may_pass"),
    [
        (-9, "", "ended by signal 9 (Killed)", True),
        (-64, "", "ended by signal 64", True),
        (1, "hpo: study: begun with other settings", "study: begun with other settings", False),
        (1, "hpo: data: gone\nleaked semaphores", "data: gone", False),
        (
            1,
            "hpo: study: others:\n  images were 3\n  seed was 0\nleaked",
            "study: others:\n  images were 3\n  seed",
            False,
        ),
        (1, "hpo: storage: the database stopped answering", "storage: the database stopped answering", True),
        (1, "Traceback …\nValueError: no", "ValueError: no", True),
        (1, "Traceback …\nm.AnError: CUDA error: no\nadvice", "m.AnError: CUDA error: no", True),
        (3, "", "exit code 3, and it printed nothing", True),
        (143, "", "told to end by somebody else", True),
        (129, "", "told to end by somebody else", True),
    ],
)
def test_why_a_worker_died(code, printed, cause, may_pass):
    """The cause is the signal, the foreseen failure, what was raised or the last line; only a foreseen one stays."""
    death = explain_death(code, printed)
    assert death.cause.startswith(cause)
    assert death.may_pass is may_pass


def test_a_traceback_is_kept():
    """All that a worker printed is kept where its last line is not all there is to know, and only there."""
    assert explain_death(1, "Traceback …\nValueError: no").printed == "Traceback …\nValueError: no"
    assert explain_death(-6, "CUDA error").printed == "CUDA error"
    assert explain_death(1, "Killed").printed is None
    assert explain_death(1, "a warning\nhpo: data: gone").printed is None
