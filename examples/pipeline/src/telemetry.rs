//! Where figures and events go.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Bounds of latency histograms, in seconds.
const SECONDS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
];

/// Events go to standard error: warnings, or what `RUST_LOG` asks for.
pub fn events() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    // A second call, as in tests, keeps the first one's choice.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

/// Installs the recorder of figures. It comes before any layer is made, since some take their counters
/// when they are.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("seconds".into()), &SECONDS)?;
    let handle = builder.install_recorder()?;
    // What ought never to happen is shown as zero, not as missing.
    for rare in [
        "pipeline_partitions_halted_total",
        "pipeline_pauses_total",
        "pipeline_rows_dead_total",
    ] {
        metrics::counter!(rare).increment(0);
    }
    Ok(handle)
}
