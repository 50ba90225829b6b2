"""`hpo search` and `hpo workers`: worker processes of one machine until the search ends."""
