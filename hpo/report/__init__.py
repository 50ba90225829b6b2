"""`hpo report`: one page that tells what a search has found, and how sure that is."""
