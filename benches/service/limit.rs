//! The LIMIT: PostgreSQL's COPY of a load's rows from binary files on its own side, with nothing in between.

use crate::Outcome;
use crate::backlog::Load;
use crate::services::Services;
use std::thread;

/// Files with the rows of a load, in the order in which the records arrive.
pub struct Limit(Vec<String>);

impl Limit {
    /// Has PostgreSQL write so many files, each with an equal part of the rows.
    pub fn prepare(services: &Services, load: &Load, name: &str, n_files: u64) -> Outcome<Limit> {
        let file = |i: u64| services.server_file(&format!("limit_{name}_{}_of_{n_files}", i + 1));
        for i in 0..n_files {
            let rows = load.rows(load.records * i / n_files + 1, load.records * (i + 1) / n_files);
            services.execute(&format!("COPY ({rows}) TO '{}' (FORMAT binary)", file(i)))?;
        }
        Ok(Limit((0..n_files).map(file).collect()))
    }

    /// A backend for each file, all at the same time.
    pub fn copy(&self, services: &Services) -> Outcome<()> {
        thread::scope(|scope| {
            let copies: Vec<_> = self.0.iter().map(|file| scope.spawn(|| copy(services, file))).collect();
            copies.into_iter().try_for_each(|copy| copy.join().map_err(|_| "a thread of the LIMIT panicked")?)
        })
    }
}

fn copy(services: &Services, file: &str) -> Outcome<()> {
    let columns = "symbol, price, volume, \"timestamp\", fetch_timestamp";
    let statement = format!("COPY stock_prices ({columns}) FROM '{file}' (FORMAT binary)");
    Ok(services.database()?.batch_execute(&statement)?)
}
