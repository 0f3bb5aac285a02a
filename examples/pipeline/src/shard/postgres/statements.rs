//! The statements that a connection has at hand.

use futures_util::future::try_join_all;
use tokio_postgres::{Client, Error, Statement};

macro_rules! statements {
    ($($name:ident: $sql:literal,)+) => {
        /// Prepared once for each connection.
        #[derive(Debug)]
        pub(super) struct Statements {
            $(pub(super) $name: Statement,)+
        }

        impl Statements {
            /// Prepares all of them in one round trip.
            pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
                let all = try_join_all([$(client.prepare($sql),)+]).await?;
                let mut all = all.into_iter();
                Ok(Self {
                    $($name: all.next().expect("one for each"),)+
                })
            }
        }
    };
}

statements! {
    adopt:
        "INSERT INTO watermark AS mine(partition, log, epoch, position) VALUES($1, $2, $3, 0)
         ON CONFLICT(partition) DO UPDATE SET epoch = greatest(mine.epoch, excluded.epoch)
             WHERE mine.log = excluded.log
         RETURNING epoch, position",
    lock: "SELECT log, epoch, position FROM watermark WHERE partition = $1 FOR UPDATE",
    state: "SELECT epoch, timeline FROM state",
    // What keeps a batch from being applied, looked at under the watermark's lock.
    refusal:
        "SELECT state.epoch, state.timeline, other.slot, other.holding, other.epoch
         FROM state LEFT JOIN LATERAL (
             SELECT slot, holding, epoch FROM slots
             WHERE slot = ANY($1) AND holding <> 'owned' LIMIT 1
         ) AS other ON true",
    unreadable: "SELECT slot, epoch FROM slots WHERE slot = ANY($1) AND NOT readable",
    insert:
        "INSERT INTO op(op, applied, class, fingerprint, slot, partition, at_offset,
                        account, item, quantity, at_ms)
         SELECT op, applied, class, fingerprint, slot, $11::int, at_offset, account, item, quantity, at_ms
         FROM unnest($1::bytea[], $2::boolean[], $3::text[], $4::bytea[], $5::int[], $6::bigint[],
                     $7::text[], $8::text[], $9::bigint[], $10::bigint[])
             AS new(op, applied, class, fingerprint, slot, at_offset, account, item, quantity, at_ms)
         ON CONFLICT(op) DO NOTHING RETURNING at_offset",
    fingerprints: "SELECT op, fingerprint FROM op WHERE op = ANY($1)",
    known: "SELECT id FROM product WHERE id = ANY($1)",
    letters:
        "INSERT INTO letter(id, op, partition, at_offset, class, body, at_ms)
         SELECT id, op, $7::int, at_offset, class, body, at_ms
         FROM unnest($1::text[], $2::bytea[], $3::bigint[], $4::text[], $5::bytea[], $6::bigint[])
             AS new(id, op, at_offset, class, body, at_ms)
         ON CONFLICT(id) DO NOTHING RETURNING id",
    add_up:
        "INSERT INTO account AS mine(id, orders, units, version)
         SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
         ON CONFLICT(id) DO UPDATE SET
             orders = mine.orders + excluded.orders,
             units = mine.units + excluded.units,
             version = greatest(mine.version, excluded.version)",
    move_on: "UPDATE watermark SET position = $2 WHERE partition = $1",
    orders:
        "SELECT op, slot, applied, class, fingerprint, item, quantity, at_offset FROM op
         WHERE op = ANY($1)",
    account: "SELECT orders, units, version FROM account WHERE id = $1",
    product: "SELECT name, price_cents FROM product WHERE id = $1",
    position:
        "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                 ELSE pg_current_wal_insert_lsn() END - '0/0'::pg_lsn)::bigint",
}
