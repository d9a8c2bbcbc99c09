//! The LIMIT: PostgreSQL's COPY of a load's rows from binary files on its own side, with nothing in between.

use crate::Outcome;
use crate::backlog::Load;
use crate::services::Services;
use std::thread;

/// Files with the rows of a load, in the order in which the records arrive.
pub struct Limit {
    /// All rows.
    all: String,
    /// The same in two halves.
    halves: [String; 2],
}

impl Limit {
    /// Has PostgreSQL write the files.
    pub fn prepare(services: &Services, load: &Load, name: &str) -> Outcome<Limit> {
        let file = |part: &str| services.server_file(&format!("limit_{name}_{part}"));
        let limit = Limit { all: file("all"), halves: [file("first"), file("second")] };
        let middle = load.records / 2;
        let parts = [
            (&limit.all, 1, load.records),
            (&limit.halves[0], 1, middle),
            (&limit.halves[1], middle + 1, load.records),
        ];
        for (file, from, to) in parts {
            services.execute(&format!("COPY ({}) TO '{file}' (FORMAT binary)", load.rows(from, to)))?;
        }
        Ok(limit)
    }

    /// By one backend.
    pub fn copy_by_one(&self, services: &Services) -> Outcome<()> {
        copy(services, &self.all)
    }

    /// By two at the same time.
    pub fn copy_by_two(&self, services: &Services) -> Outcome<()> {
        thread::scope(|scope| {
            let first = scope.spawn(|| copy(services, &self.halves[0]));
            copy(services, &self.halves[1])?;
            first.join().map_err(|_| "a thread of the LIMIT panicked")?
        })
    }
}

fn copy(services: &Services, file: &str) -> Outcome<()> {
    let columns = "symbol, price, volume, \"timestamp\", fetch_timestamp";
    let statement = format!("COPY stock_prices ({columns}) FROM '{file}' (FORMAT binary)");
    Ok(services.database()?.batch_execute(&statement)?)
}
