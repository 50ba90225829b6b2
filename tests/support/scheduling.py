"""How tests are shared between the processes of one run."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

from tests.conftest import ROOT, shares_fixtures


class FixtureScheduling(LoadScopeScheduling):
    """Each process takes the next test when it is free; tests of a module with fixtures of its own stay together.

    What such a fixture makes, a whole search at times, would otherwise be made by every process.
    """

    def _split_scope(self, nodeid):
        module = nodeid.partition("::")[0]
        return module if shares_fixtures(ROOT / module) else nodeid
