"""A private Postgres beside the study file."""
