//! `explain`: reads messages from a file, a pipe or a topic, and prints what each becomes, as it reads.

use super::output::{self, Halt, duplicate, halt};
use crate::clock;
use crate::config::{AssignmentMode, Config, Kafka};
use crate::decode::settings::Settings;
use crate::exit::{ExitCode, Stop};
use crate::explain::kcat::{self, Envelope};
use crate::explain::lines::{Line, Lines, NoLine};
use crate::explain::text::harmless;
use crate::explain::{Explained, Summary, text, value};
use crate::newest::{Logs, Newest};
use crate::outage::Outage;
use crate::progress::{Extent, Progress};
use crate::record::{Offset, Record, TopicPartition, Value};
use crate::shutdown::Shutdown;
use crate::source::{self, Source, SourceFault};
use crate::startup::{self, Patience};
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Lines that are no messages are told of one by one up to so many; then they are counted.
const COMPLAINTS_MAX: u64 = 20;

/// What is to be explained, and how.
#[derive(Debug)]
pub struct Request {
    /// Where the messages are.
    pub messages: Messages,
    /// The topic whose settings they are read by; `None`: their own, else the first.
    pub topic: Option<String>,
    /// One JSON object a message, and nothing else.
    pub json: bool,
}

/// Where messages are. A file is a path, `-` for stdin, or `None` for stdin where that is no terminal.
#[derive(Debug)]
pub enum Messages {
    /// One a line, as a producer would send them.
    Lines {
        /// The file.
        file: Option<PathBuf>,
        /// The key of all of them.
        key: Option<String>,
        /// The record timestamp of all of them, -1 for none; `None`: now.
        timestamp_ms: Option<i64>,
    },
    /// One a line, as `kcat -J` prints them.
    Kcat {
        /// The file.
        file: Option<PathBuf>,
    },
    /// The newest ones of a topic.
    Newest(usize),
}

/// Explains what is asked for. Dead letters are an answer, not a failure.
pub fn run(config: &Config, request: &Request) -> Result<(), Stop> {
    let mut report = Report { out: output::stdout()?, json: request.json, summary: Summary::default() };
    let outcome = match &request.messages {
        Messages::Lines { file, key, timestamp_ms } => {
            let sender = Sender { key: key.as_deref(), timestamp_ms: *timestamp_ms };
            explain_lines(config, request, file.as_deref(), sender, &mut report)
        }
        Messages::Kcat { file } => explain_kcat(config, request, file.as_deref(), &mut report),
        Messages::Newest(n) => explain_newest(config, request, *n, &mut report),
    };
    let outcome = outcome.and_then(|n_unreadable| report.end().map(|()| n_unreadable));
    match outcome {
        Ok(0) | Err(Halt::ReaderGone) => Ok(()),
        Ok(n) => {
            let which = if n > COMPLAINTS_MAX { "the first of them are named above" } else { "named above" };
            let what = format!("lines that are no records as kcat -J prints them: {n}, {which}");
            Err(Stop::new(ExitCode::DataNeedsDecision, what))
        }
        Err(Halt::Stop(stop)) => {
            // What was explained before it stays true. That it can't be printed either would be a second error.
            let _ = report.flush();
            Err(stop)
        }
    }
}

/// The settings that a topic's messages are read by; without a name, the first table's, and what it calls its topic.
fn settings_of<'c>(config: &'c Config, topic: Option<&'c str>) -> Result<(&'c str, &'c Settings), Stop> {
    let Some(topic) = topic else {
        let first = config.topics.iter().next().expect("there is a table, if only the default one");
        return Ok((first.selector.as_str(), &first.settings));
    };
    config.topics.settings(topic).map(|settings| (topic, settings)).ok_or_else(|| {
        let known: Vec<&str> = config.topics.iter().map(|table| table.selector.as_str()).collect();
        let what =
            format!("is in no [[topics]] table, only {}; add it there, or name one by --topic", known.join(", "));
        Stop::new(ExitCode::Config, format!("topic {topic:?} {what}"))
    })
}

/// Who would have sent the messages of a file.
struct Sender<'a> {
    key: Option<&'a str>,
    timestamp_ms: Option<i64>,
}

fn explain_lines(
    config: &Config,
    request: &Request,
    file: Option<&Path>,
    sender: Sender<'_>,
    report: &mut Report,
) -> Result<u64, Halt> {
    let (topic, settings) = settings_of(config, request.topic.as_deref())?;
    let mut input = Input::open(file, config.kafka.message_bytes_max)?;
    let mut progress = input.progress();
    loop {
        let value = match input.next(report)? {
            None => return Ok(0),
            Some(Line::Whole(bytes)) => Value::Bytes(bytes),
            Some(Line::TooLong { bytes, sha256 }) => Value::TooLarge { bytes, sha256 },
        };
        let timestamp_ms = sender.timestamp_ms.unwrap_or_else(clock::now_ms);
        let record = Record {
            topic,
            partition: 0,
            offset: Offset(report.summary.messages() as i64),
            // Kafka's "no timestamp" is -1.
            timestamp_ms: (timestamp_ms >= 0).then_some(timestamp_ms),
            key: sender.key.map(str::as_bytes),
            value,
        };
        report.message(|| format!("line {}", record.offset.0 + 1), &record, settings)?;
        progress.reached(input.lines.number(), input.lines.bytes_read());
    }
}

/// Gives the number of lines that are no records.
fn explain_kcat(config: &Config, request: &Request, file: Option<&Path>, report: &mut Report) -> Result<u64, Halt> {
    let chosen = request.topic.as_deref().map(|topic| settings_of(config, Some(topic))).transpose()?;
    let line_bytes_max = kcat::line_bytes_max(config.kafka.message_bytes_max);
    let mut input = Input::open(file, line_bytes_max)?;
    let mut progress = input.progress();
    let mut n_unreadable = 0;
    loop {
        let envelope = match input.next(report)? {
            None => return Ok(n_unreadable),
            // Between JSON documents there may be white space.
            Some(Line::Whole(line)) if line.iter().all(u8::is_ascii_whitespace) => continue,
            Some(Line::Whole(line)) => kcat::parse(line),
            Some(Line::TooLong { bytes, .. }) => {
                Err(format!("has {bytes} bytes; {line_bytes_max} hold the largest value of kafka.max_message_bytes"))
            }
        };
        let number = input.lines.number();
        let complaint = match envelope {
            Ok(Envelope { topic: None, .. }) if chosen.is_none() => Some("topic: is missing; give --topic".to_owned()),
            Ok(envelope) => {
                let topic = envelope.topic.as_deref();
                let settings = chosen.map_or_else(|| settings_of(config, topic), Ok);
                let settings =
                    settings.map_err(|stop| Stop::new(stop.code, format!("{}:{number}: {stop}", input.name)))?;
                explain_envelope(config, &envelope, number, settings, report)?;
                None
            }
            Err(what) => Some(what),
        };
        if let Some(what) = complaint {
            n_unreadable += 1;
            if n_unreadable <= COMPLAINTS_MAX {
                progress.say(&format!("stock-db-writer: {}:{number}: {what}", input.name));
            }
        }
        progress.reached(number, input.lines.bytes_read());
    }
}

/// One record of kcat's, from a line of this number.
fn explain_envelope(
    config: &Config,
    envelope: &Envelope,
    number: u64,
    (settings_topic, settings): (&str, &Settings),
    report: &mut Report,
) -> Result<(), Halt> {
    let topic = envelope.topic.as_deref().unwrap_or(settings_topic);
    let (partition, offset) = envelope.place.unwrap_or((0, number as i64 - 1));
    let message_bytes_max = config.kafka.message_bytes_max;
    let record = Record {
        topic,
        partition,
        offset: Offset(offset),
        timestamp_ms: envelope.timestamp_ms,
        key: envelope.key.as_deref(),
        value: envelope.payload.as_deref().map_or(Value::Null, |bytes| value(bytes, message_bytes_max)),
    };
    let place = || match envelope.place {
        Some((partition, offset)) => format!("{topic}/{partition}@{offset}"),
        None => format!("line {number}"),
    };
    report.message(place, &record, settings)
}

fn explain_newest(config: &Config, request: &Request, n: usize, report: &mut Report) -> Result<u64, Halt> {
    let (topic, settings) = settings_of(config, request.topic.as_deref())?;
    if request.topic.is_none() && config.topics.names().all(|name| name != topic) {
        let what = format!("the first [[topics]] table has the pattern {topic:?}; say by --topic which topic is meant");
        return Err(Stop::new(ExitCode::Usage, what).into());
    }
    let topic: Arc<str> = topic.into();
    let shutdown = Shutdown::new();
    let away_max = startup::outage_max(config, true);
    let outage = Outage::new("kafka", away_max);
    let mut patience = Patience::new(config, &shutdown);
    // Everything of the topic, and no part in the group.
    let kafka = Kafka { assignment: AssignmentMode::All, instance_id: None, ..config.kafka.clone() };
    let mut source = patience.kafka(&outage, Duration::ZERO, || source::connect(&kafka))?;
    let logs = patience.kafka(&outage, Duration::ZERO, || logs_of(source.as_mut(), &topic))?;
    patience.kafka(&outage, Duration::ZERO, || Newest::subscribe(source.as_mut(), &topic, &logs))?;
    let mut newest = Newest::new(source.as_mut(), logs, away_max.unwrap_or(Duration::MAX));
    let mut progress = Progress::start("explain", "records looked at", Extent::Unknown);
    let places = newest.find(n, &mut |n_read| progress.reached(n_read, 0))?;
    drop(progress);
    let n_places = places.values().map(Vec::len).sum::<usize>() as u64;
    let mut progress = progress_to(Extent::Things(n_places));
    let message_bytes_max = config.kafka.message_bytes_max;
    newest.read(&places, &mut |TopicPartition { topic, partition }, incoming| {
        let record = Record {
            topic,
            partition: *partition,
            offset: incoming.offset,
            timestamp_ms: incoming.timestamp_ms,
            key: incoming.key,
            value: incoming.value.map_or(Value::Null, |bytes| value(bytes, message_bytes_max)),
        };
        report.message(|| format!("{topic}/{partition}@{}", record.offset), &record, settings)?;
        progress.reached(report.summary.messages(), 0);
        Ok::<_, Halt>(())
    })?;
    source.close();
    Ok(0)
}

/// Where all partitions of a topic start and end.
fn logs_of(source: &mut dyn Source, topic: &Arc<str>) -> Result<Logs, SourceFault> {
    let n_partitions = source.topics(std::slice::from_ref(topic))?.get(topic).map_or(0, |state| state.partitions);
    let partitions: Vec<_> = (0..n_partitions).map(|number| TopicPartition::new(topic.clone(), number)).collect();
    let logs = source.bounds(&partitions)?;
    match partitions.iter().find(|partition| !logs.contains_key(partition)) {
        Some(partition) => Err(SourceFault::Away(format!("no broker knows where partition {partition} ends"))),
        None => Ok(logs),
    }
}

/// Where lines come from.
struct Input {
    // For people; harmless.
    name: String,
    lines: Lines<File>,
    // Of a regular file.
    length: Option<u64>,
}

impl Input {
    fn open(path: Option<&Path>, line_bytes_max: usize) -> Result<Input, Stop> {
        let wrong = |what: String| Stop::new(ExitCode::Usage, what);
        if path.is_none() && io::stdin().is_terminal() {
            let what = "explain: give a FILE of messages, - to type them, or --from-kafka N; more: explain --help";
            return Err(wrong(what.to_owned()));
        }
        let (name, file) = match path.filter(|path| *path != Path::new("-")) {
            Some(path) => (harmless(&path.to_string_lossy()).into_owned(), File::open(path)),
            None => ("stdin".to_owned(), duplicate(io::stdin().as_fd())),
        };
        match file.and_then(|file| Ok((file.metadata()?, file))) {
            Ok((about, _)) if about.is_dir() => Err(wrong(format!("{name}: is a directory; give a file of messages"))),
            Ok((about, file)) => {
                let length = about.is_file().then_some(about.len());
                Ok(Input { name, lines: Lines::new(file, line_bytes_max), length })
            }
            Err(error) => Err(wrong(format!("{name}: {error}"))),
        }
    }

    /// The next line. What has been explained is printed before it is waited for.
    fn next(&mut self, report: &mut Report) -> Result<Option<Line<'_>>, Halt> {
        self.lines.next(|| report.flush()).map_err(|no_line| match no_line {
            NoLine::Unreadable(error) => Stop::new(ExitCode::Corruption, format!("{}: {error}", self.name)).into(),
            NoLine::Unwanted(halt) => halt,
        })
    }

    fn progress(&self) -> Progress {
        progress_to(self.length.map_or(Extent::Unknown, Extent::Bytes))
    }
}

/// The tables themselves show on a terminal how far the work has come.
fn progress_to(extent: Extent) -> Progress {
    match io::stdout().is_terminal() {
        true => Progress::none(),
        false => Progress::start("explain", "messages", extent),
    }
}

/// What is printed.
struct Report {
    out: BufWriter<File>,
    json: bool,
    summary: Summary,
}

impl Report {
    fn message(
        &mut self,
        place: impl FnOnce() -> String,
        record: &Record<'_>,
        settings: &Settings,
    ) -> Result<(), Halt> {
        let explained = Explained::of(record, settings);
        let written = match self.json {
            true => serde_json::to_writer(&mut self.out, &explained.json())
                .map_err(io::Error::from)
                .and_then(|()| self.out.write_all(b"\n")),
            false => {
                let gap = if self.summary.messages() == 0 { Ok(()) } else { self.out.write_all(b"\n") };
                gap.and_then(|()| explained.write_table(&mut self.out, &place()))
            }
        };
        self.summary.add(&explained);
        written.map_err(halt)
    }

    fn flush(&mut self) -> Result<(), Halt> {
        self.out.flush().map_err(halt)
    }

    /// The last line of what is for people.
    fn end(&mut self) -> Result<(), Halt> {
        let written = match self.summary.messages() {
            _ if self.json => Ok(()),
            0 => writeln!(self.out, "no messages"),
            1 => Ok(()),
            _ => writeln!(self.out, "\n{}", text::wrap(&self.summary.to_string(), 2)),
        };
        written.and_then(|()| self.out.flush()).map_err(halt)
    }
}
