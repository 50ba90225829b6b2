#!/bin/sh
# Runs a command. As root it first becomes the owner of the working directory, so that what the command writes there is
# theirs; a container that was given another user stays that user.
set -eu
if [ "$(id -u)" = 0 ]; then
    # By its path: `.` would have to be entered, which root without rights may not where it is closed to others.
    exec setpriv --reuid "$(stat --format %u "$PWD")" --regid "$(stat --format %g "$PWD")" --clear-groups "$@"
fi
exec "$@"
