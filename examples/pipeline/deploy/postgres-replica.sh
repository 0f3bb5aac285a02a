#!/bin/sh
# A copy of the primary, taken once, that streams from it.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    pg_basebackup --dbname "postgres://postgres@primary" --checkpoint fast --write-recovery-conf --pgdata "$PGDATA"
    chmod 0700 "$PGDATA"
fi
exec postgres
