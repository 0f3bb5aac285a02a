use super::Claim;
use crate::prove::Bar::{AtMost, Equals};

pub(super) const CLAIMS: &[Claim] = &[
    Claim::test(
        "dlq/lost",
        "no letter that was reported as written is lost, whichever byte the file was cut at",
        Equals(0.0),
        "file::lost",
    ),
    Claim::test(
        "dlq/damage-unnoticed",
        "no flipped bit makes letters vanish in silence",
        Equals(0.0),
        "file::damage_unnoticed",
    ),
    Claim::test(
        "dlq/sink-down-acknowledged",
        "while the sink is down no failing request is acknowledged",
        Equals(0.0),
        "sink_down_acknowledged",
    ),
    Claim::test(
        "dlq/redrive-bytes-changed",
        "redrive hands key, headers and payload back byte for byte",
        Equals(0.0),
        "redrive_bytes_changed",
    ),
    Claim::test(
        "dlq/redrive-second-death-kept",
        "a redriven copy that dies again keeps a letter of its own",
        Equals(1.0),
        "redrive_second_death_kept",
    ),
    Claim::test(
        "dlq/repeat-is-one-letter",
        "a request that dies ten times in one generation has one letter",
        Equals(1.0),
        "repeat_is_one_letter",
    ),
    Claim::test(
        "dlq/redrive-rate-off",
        "redrive keeps within 5% of the rate that was set",
        AtMost(0.05),
        "it_keeps_to_its_rate",
    )
    .in_file("redrive"),
    Claim::test(
        "dlq/redis-kill-lost",
        "workers killed with SIGKILL at every step, and during redrive, lose no message with letters in Redis",
        Equals(0.0),
        "no_message_is_lost_with_letters_in_redis",
    )
    .in_file("kill"),
    Claim::test(
        "dlq/redis-kill-repeated-letters",
        "and no letter is there twice",
        Equals(0.0),
        "no_message_is_lost_with_letters_in_redis",
    )
    .in_file("kill"),
    Claim::test(
        "dlq/file-kill-lost",
        "nor do they with letters in a file",
        Equals(0.0),
        "no_message_is_lost_with_letters_in_a_file",
    )
    .in_file("kill"),
    Claim::test(
        "dlq/file-kill-repeated-letters",
        "and no letter is there twice",
        Equals(0.0),
        "no_message_is_lost_with_letters_in_a_file",
    )
    .in_file("kill"),
    Claim::test(
        "dlq/kafka-kill-lost",
        "nor do they with messages and letters in Kafka",
        Equals(0.0),
        "no_message_is_lost_with_messages_and_letters_in_kafka",
    )
    .in_file("kill"),
    Claim::test(
        "dlq/kafka-kill-repeated-letters",
        "and no letter is seen twice",
        Equals(0.0),
        "no_message_is_lost_with_messages_and_letters_in_kafka",
    )
    .in_file("kill"),
    Claim::test(
        "dlq/redis-kill-lost-of-100000",
        "the same of 100,000 messages, with 140 kills",
        Equals(0.0),
        "no_message_of_many_is_lost_with_letters_in_redis",
    )
    .in_file("kill_long")
    .long(),
    Claim::test(
        "dlq/file-kill-lost-of-100000",
        "the same of 100,000 messages with letters in a file, with 140 kills",
        Equals(0.0),
        "no_message_of_many_is_lost_with_letters_in_a_file",
    )
    .in_file("kill_long")
    .long(),
    Claim::test(
        "dlq/kafka-kill-lost-of-100000",
        "the same of 100,000 messages with messages and letters in Kafka, with 140 kills",
        Equals(0.0),
        "no_message_of_many_is_lost_with_messages_and_letters_in_kafka",
    )
    .in_file("kill_long")
    .long(),
    Claim::test(
        "dlq/poison-starts",
        "a message that kills its worker is dead after at most N + 1 starts, here 4",
        AtMost(4.0),
        "a_message_that_kills_its_worker_is_dead_soon_and_alone",
    )
    .in_file("kill"),
    Claim::test(
        "dlq/innocents-condemned",
        "and none of those around it is condemned",
        Equals(0.0),
        "a_message_that_kills_its_worker_is_dead_soon_and_alone",
    )
    .in_file("kill"),
    Claim::test(
        "dlq/kafka-poison-starts",
        "a message of Kafka that kills its worker is dead after at most N + 1 starts, here 4",
        AtMost(4.0),
        "a_message_of_kafka_that_kills_its_worker_is_dead_soon_and_alone",
    )
    .in_file("kill"),
    Claim::test(
        "dlq/kafka-innocents-condemned",
        "and none of those around it is condemned",
        Equals(0.0),
        "a_message_of_kafka_that_kills_its_worker_is_dead_soon_and_alone",
    )
    .in_file("kill"),
    Claim::test(
        "dlq/consumer-sink-down-acknowledged",
        "while its sink is down a consumer acknowledges nothing that fails",
        Equals(0.0),
        "while_the_sink_is_down_nothing_that_fails_is_acknowledged",
    )
    .in_file("consumer"),
    Claim::test(
        "dlq/consumer-sink-down-lost",
        "and drains afterwards, with every letter there",
        Equals(0.0),
        "while_the_sink_is_down_nothing_that_fails_is_acknowledged",
    )
    .in_file("consumer"),
    Claim::test(
        "dlq/kafka-sink-down-acknowledged",
        "while the broker of its letters is down a consumer acknowledges nothing that fails",
        Equals(0.0),
        "while_the_broker_is_down_nothing_that_fails_is_acknowledged",
    )
    .in_file("sink_down"),
    Claim::test(
        "dlq/kafka-sink-down-lost",
        "and drains afterwards, with every letter there",
        Equals(0.0),
        "while_the_broker_is_down_nothing_that_fails_is_acknowledged",
    )
    .in_file("sink_down"),
    Claim::test(
        "dlq/kafka-sink-down-for-a-minute",
        "the same with the broker down for a minute: acknowledged or lost",
        Equals(0.0),
        "while_the_broker_is_down_for_a_minute_nothing_that_fails_is_acknowledged",
    )
    .in_file("sink_down_long")
    .long(),
    Claim::test(
        "dlq/delayed-early-us",
        "what is put off is never early by the server's clock",
        Equals(0.0),
        "a_wait_on_the_server_is_never_early_and_the_message_stays_itself",
    )
    .in_file("consumer"),
    Claim::test(
        "dlq/held-back-by-another-key",
        "a key that waits for five minutes holds back no message of another",
        Equals(0.0),
        "a_key_that_waits_for_five_minutes_holds_back_nobody_else",
    )
    .in_file("consumer"),
    Claim::test(
        "dlq/delay-slows-others-by",
        "a key that waits for five minutes in the process adds less than 5% to the latency of the others",
        AtMost(0.05),
        "a_key_that_waits_for_five_minutes_slows_nobody_down",
    )
    .in_file("consumer"),
    Claim::test(
        "dlq/delayed-key-latency-added",
        "and put off on the server no more, with messages in order or not",
        AtMost(0.05),
        "a_key_that_waits_for_five_minutes_adds_nothing_to_the_latency_of_others",
    )
    .in_file("latency"),
    Claim::test(
        "dlq/five-minutes-early-us",
        "and on the server it is not a moment early",
        Equals(0.0),
        "five_minutes_on_the_server_are_not_a_millisecond_less",
    )
    .in_file("latency"),
    Claim::test(
        "dlq/passed-a-dead-one",
        "where order is kept no message passes a dead one of its key, until that is redriven and done",
        Equals(0.0),
        "a_dead_message_holds_its_key_until_it_is_redriven_and_done",
    )
    .in_file("held"),
    Claim::test(
        "dlq/slot-moves-lost",
        "on a Redis Cluster no message is lost while the slot of its stream moves from server to server",
        Equals(0.0),
        "a_slot_that_moves_while_it_works_costs_nothing",
    )
    .in_file("cluster"),
    Claim::test(
        "dlq/failover-lost",
        "nor when the primary is killed and a replica that had it takes over",
        Equals(0.0),
        "a_primary_that_dies_while_it_works_costs_none_of_what_its_replica_had",
    )
    .in_file("cluster"),
    Claim::test(
        "dlq/redis-sink-down-acknowledged",
        "with the sink frozen, killed and started again no failing message is acknowledged meanwhile",
        Equals(0.0),
        "a_frozen_and_killed_sink_costs_no_message_and_no_acknowledgement",
    )
    .in_file("outage"),
    Claim::test(
        "dlq/redis-sink-down-lost",
        "and each has its letter afterwards",
        Equals(0.0),
        "a_frozen_and_killed_sink_costs_no_message_and_no_acknowledgement",
    )
    .in_file("outage"),
    Claim::test(
        "dlq/redis-sink-down-a-minute-acknowledged",
        "the same for a minute",
        Equals(0.0),
        "a_sink_that_is_away_for_a_minute_costs_no_message_and_no_acknowledgement",
    )
    .in_file("outage_long")
    .long(),
    Claim::test(
        "dlq/redis-sink-down-a-minute-lost",
        "and each has its letter afterwards",
        Equals(0.0),
        "a_sink_that_is_away_for_a_minute_costs_no_message_and_no_acknowledgement",
    )
    .in_file("outage_long")
    .long(),
    Claim::compare(
        "dlq/layer-allocations",
        "a request that does not die costs no allocation",
        Equals(0.0),
        ("dlq/layer/1t", "bare", "allocs"),
    ),
];
