//! The tables' names as they go into statements.

use crate::config::{self, TableName};

/// Quoted, qualified names.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// Where prices go.
    pub(super) prices: Table,
    /// Whether its columns may round.
    pub(super) prices_round: bool,
    /// Where metrics go.
    pub(super) metrics: Table,
    /// Whether its columns may round.
    pub(super) metrics_round: bool,
    /// Where each partition stands.
    pub(super) offsets: Table,
    /// What could not become a row.
    pub(super) dead_letters: Table,
    /// What was passed over by decision.
    pub(super) gaps: Table,
    /// The schema's version.
    pub(super) meta: Table,
}

/// One table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// As PostgreSQL prints it in a COPY's context, and as catalogs hold it.
    pub(super) bare: String,
    /// Its schema, unquoted.
    pub(super) schema: String,
    /// As a statement needs it.
    pub(super) sql: String,
}

impl Table {
    fn new(schema: &str, name: &str) -> Self {
        let sql = format!("{}.{}", quoted(schema), quoted(name));
        Table { bare: name.to_owned(), schema: schema.to_owned(), sql }
    }

    /// For a person.
    pub(super) fn plain(&self) -> String {
        format!("{}.{}", self.schema, self.bare)
    }
}

impl From<&TableName> for Table {
    fn from(name: &TableName) -> Self {
        Table::new(&name.schema, &name.name)
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sql)
    }
}

impl Names {
    /// The names that were configured.
    pub(super) fn new(config: &config::Database) -> Self {
        let own = |name: &str| Table::new(&config.bookkeeping, name);
        Names {
            prices: Table::from(&config.prices),
            prices_round: config.prices_round,
            metrics: Table::from(&config.metrics),
            metrics_round: config.metrics_round,
            offsets: own("writer_offsets"),
            dead_letters: own("writer_dead_letters"),
            gaps: own("writer_gaps"),
            meta: own("writer_meta"),
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> [&Table; 6] {
        [&self.prices, &self.metrics, &self.offsets, &self.dead_letters, &self.gaps, &self.meta]
    }
}

/// An identifier that means exactly this name.
pub(super) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A text that means exactly this text, as long as `standard_conforming_strings` is on, which it is by default.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_name_does_not_end_it() {
        let name = TableName { schema: "a\"b".to_owned(), name: "Prices; --".to_owned() };
        assert_eq!(Table::from(&name).sql, "\"a\"\"b\".\"Prices; --\"");
    }

    #[test]
    fn a_name_means_itself_whatever_it_is() {
        for (name, sql) in [
            ("x; drop table y", "\"x; drop table y\"".to_owned()),
            ("a\"b", "\"a\"\"b\"".to_owned()),
            ("select", "\"select\"".to_owned()),
            (&"x".repeat(63), format!("\"{}\"", "x".repeat(63))),
        ] {
            assert_eq!(quoted(name), sql);
        }
    }

    #[test]
    fn a_text_does_not_end_itself() {
        assert_eq!(literal("a'; DROP TABLE y; --"), "'a''; DROP TABLE y; --'");
    }
}
