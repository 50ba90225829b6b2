"""`hpo nested`: a search for each outer fold, and one number over all images, each tested by a search without it."""
