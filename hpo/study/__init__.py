"""What is searched, and how a study stands."""
