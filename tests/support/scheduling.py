"""How tests are shared between the processes of one run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[2]


@cache
def _shares_fixtures(module):
    """Whether the tests of a module, given by its path below the root, share what a fixture of it makes once."""
    return 'scope="module"' in (ROOT / module).read_text()


class FixtureScheduling(LoadScopeScheduling):
    """Each process takes the next test when it is free; tests of a module with fixtures of its own stay together.

    What such a fixture makes, a whole search at times, would otherwise be made by every process.
    """

    def _split_scope(self, nodeid):
        module = nodeid.partition("::")[0]
        return module if _shares_fixtures(module) else nodeid
