"""The search: study file, workers, progress, export and the command line."""
