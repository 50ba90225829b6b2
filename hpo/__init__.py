"""The search: study file, workers, progress, export and the command line."""

DISTRIBUTION = "hpo-images"  # the name in a package registry, where `hpo` is another project
