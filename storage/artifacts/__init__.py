"""Files of trials: what names them, and where they are kept."""
