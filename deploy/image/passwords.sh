#!/bin/sh
# Prepares the volumes that the services share, as root and before all of them: passwords, each readable by whom it is
# for, and folders that belong to the owner of the working directory. A password is the one that was given as a secret,
# else the one that is there, else a new one at random.
set -eu
umask 077
owner=$(stat --format %u:%g .)

write() { # NAME OWNER MODE, the content on standard input: whole or not at all
    cat >"/run/passwords/$1.tmp"
    chown "$2" "/run/passwords/$1.tmp"
    chmod "$3" "/run/passwords/$1.tmp"
    mv "/run/passwords/$1.tmp" "/run/passwords/$1"
}

password() { # NAME
    if [ -e "/run/secrets/$1_password" ]; then
        [ -s "/run/secrets/$1_password" ] || { echo "passwords: the secret $1_password is empty" >&2; exit 1; }
        cat "/run/secrets/$1_password"
    elif [ -s "/run/passwords/$1" ]; then
        cat "/run/passwords/$1"
    else
        od --address-radix=n --format=x1 --read-bytes=24 /dev/urandom | tr -d ' \n'
    fi
}

long_password() { # NAME
    given=$(password "$1")
    [ "$(printf %s "$given" | LC_ALL=C.UTF-8 wc --chars)" -ge 12 ] || {
        echo "passwords: the secret $1_password needs 12 characters; openssl rand -hex 24 makes one" >&2
        exit 1
    }
    printf %s "$given"
}

chmod 711 /run/passwords
postgres=$(password postgres)
dashboard=$(long_password dashboard)
viewer=$(long_password dashboard_viewer)
printf '%s\n' "$postgres" | write postgres 999:999 400 # the user of the image postgres
printf '%s\n' "$dashboard" | write dashboard "${owner%:*}:0" 440 # of root's group for `docker compose exec dashboard cat`
printf '%s\n' "$viewer" | write dashboard_viewer "${owner%:*}:0" 440
printf 'postgres:5432:hpo:hpo:%s\n' "$(printf %s "$postgres" | sed 's/[\\:]/\\&/g')" | write pgpass "$owner" 600

for volume in /artifacts /home/hpo; do
    [ "$(stat --format %u:%g "$volume")" = "$owner" ] || chown --recursive "$owner" "$volume"
done
