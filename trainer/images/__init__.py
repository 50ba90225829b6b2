"""Image files: which there are, how they are split, and their pixels."""
