"""One training: recipe, data, model, fit, objective. No database, no study, no command line."""
