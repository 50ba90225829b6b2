"""`hpo check`: what could make a search fail, or its scores too good."""
