#!/bin/sh
# Run once by the image: replicas may stream, and each shard is a database.
set -eu
echo "host replication all all trust" >> "$PGDATA/pg_hba.conf"
for shard in 00 01 02 03 04 05 06 07 08 09; do
    createdb --username postgres "s$shard"
done
