#!/bin/sh
# For peerstorage-on-change: copies the file to another machine, by SFTP with a key. What lies there is replaced when
# the new one is whole.
set -eu
: "${PEERSTORAGE_SSH:=backup@host.example:lightning}"
folder=${PEERSTORAGE_SSH#*:}
name=$(basename "$1")
exec sftp -q -b - -o ConnectTimeout=15 -o ServerAliveInterval=10 -o ServerAliveCountMax=2 "${PEERSTORAGE_SSH%%:*}" <<END
put -f "$1" "$folder/$name.tmp"
chmod 600 "$folder/$name.tmp"
rename "$folder/$name.tmp" "$folder/$name"
END
