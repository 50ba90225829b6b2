"""`hpo dashboard`: optuna-dashboard in the browser, behind a password."""
