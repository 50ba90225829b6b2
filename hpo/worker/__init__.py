"""One worker process, and the runs of its trials."""
