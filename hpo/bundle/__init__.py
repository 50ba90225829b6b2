"""A trained model as a folder: made, used, and what it labels."""
