#!/bin/sh
# `hpo` in the place of pip's, for `docker exec` too, which passes the entrypoint by.
exec hpo-entrypoint python -m hpo "$@"
