//! The log: one line an event on stderr. Under systemd without times and colours, since the journal has its own.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Starts to log what `filter` lets through.
///
/// # Errors
/// When the filter is no filter.
pub fn start(filter: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false);
    // A second start (there is none) would leave the first one in place.
    let _ = if under_systemd {
        log.without_time().try_init()
    } else {
        log.try_init()
    };
    Ok(())
}
