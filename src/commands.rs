//! The one-shot commands: each connects, looks or creates, prints to stdout and ends.

pub mod check;
pub mod dead_letters;
pub mod explain;
mod output;
pub mod reset;
pub mod status;

use crate::config::Config;
use crate::database::{Database, grants, schema};
use crate::exit::{ExitCode, Stop};
use crate::outage::Outage;
use crate::shutdown::Shutdown;
use crate::startup::{self, NotStarted, Patience};
use std::io::Write;
use std::time::Duration;

/// How long the answer to a probe is waited for.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// `init --print`, with what a role of the worker's own needs.
pub fn print_schema(config: &Config, writer_role: Option<&str>) -> Result<(), Stop> {
    print(&format!("{}\n{}", schema::sql(&config.database), grants::sql(config, writer_role)))
}

/// `init`
pub fn init(config: &Config) -> Result<(), Stop> {
    let (outcome, notes, findings) = with_patience(config, |outage, patience| {
        let database = patience.database(outage, || Database::open(config, &startup::owner_name()))?;
        let outcome = startup::create(&database, outage, patience)?;
        // What was there already may not do.
        let findings = patience.database(outage, || database.validate())?;
        let notes = patience.database(outage, || database.notes())?;
        Ok((outcome, notes, findings))
    })?;
    let mut out: String = outcome.made.iter().map(|made| format!("created {made}\n")).collect();
    if outcome.made.is_empty() {
        out.push_str("everything is there already\n");
    }
    out.extend(notes.iter().map(|note| format!("note: {note}\n")));
    out.push_str(
        "note: what a role of the worker's own needs is shown by: stock-db-writer init --print --writer-role ROLE\n",
    );
    out.extend(findings.iter().map(|finding| format!("problem: {}\n", finding.message)));
    print(&out)?;
    match findings.first() {
        None => Ok(()),
        Some(first) => {
            let message =
                format!("the tables are not such that a run works: {} problem(s), listed above", findings.len());
            Err(Stop::new(first.code, message))
        }
    }
}

/// `health`
pub fn health(config: &Config, live: bool) -> Result<(), Stop> {
    let Some(address) = &config.metrics_listen else {
        let message = "metrics.listen is empty, so that nobody can be asked; set it, for example to 127.0.0.1:9464";
        return Err(Stop::new(ExitCode::Config, message));
    };
    if address.rsplit_once(':').is_some_and(|(_, port)| port.parse() == Ok(0_u16)) {
        let message = format!(
            "metrics.listen: {address} has no fixed port, so that nobody can know where to ask; give it one, for example \
             127.0.0.1:9464"
        );
        return Err(Stop::new(ExitCode::Config, message));
    }
    // What listens everywhere listens on loopback, too.
    let port = |everywhere| address.strip_prefix(everywhere);
    let address = match (port("0.0.0.0:"), port("[::]:")) {
        (Some(port), _) => format!("127.0.0.1:{port}"),
        (_, Some(port)) => format!("[::1]:{port}"),
        _ => address.clone(),
    };
    let url = format!("http://{address}/health/{}", if live { "live" } else { "ready" });
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(PROBE_MAX))
        .http_status_as_error(false)
        // A proxy of the environment is not asked about this machine.
        .proxy(None)
        .build()
        .new_agent();
    let no = |why: String| Stop::new(ExitCode::ServerAway, why);
    let mut response = agent.get(&url).call().map_err(|error| no(format!("asking {url}: {error}")))?;
    let answer = response.body_mut().read_to_string().map_err(|error| no(format!("asking {url}: {error}")))?;
    match response.status().is_success() {
        true => print(&answer),
        false => Err(no(answer.trim().to_owned())),
    }
}

fn with_patience<T>(
    config: &Config,
    work: impl FnOnce(&Outage, &mut Patience<'_>) -> Result<T, NotStarted>,
) -> Result<T, Stop> {
    let shutdown = Shutdown::new();
    let outage = Outage::new("database", startup::outage_max(config, true));
    match work(&outage, &mut Patience::new(config, &shutdown)) {
        Ok(answer) => Ok(answer),
        Err(NotStarted::Stop(stop)) => Err(stop),
        Err(NotStarted::Asked) => unreachable!("nobody triggers a one-shot command's shutdown"),
    }
}

/// To stdout; a reader that has gone (a closed pipe) wants no more of it.
pub fn print(text: &str) -> Result<(), Stop> {
    print_to(&mut std::io::stdout(), text)
}

/// The same with styles, which only a terminal is sent, and not if `NO_COLOR` is set.
fn print_styled(text: &str) -> Result<(), Stop> {
    print_to(&mut anstream::stdout(), text)
}

fn print_to(out: &mut dyn Write, text: &str) -> Result<(), Stop> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Stop::new(ExitCode::Corruption, format!("writing to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
