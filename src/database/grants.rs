//! What a role of the worker's own has to be granted, as SQL for whoever owns the tables.
//!
//! The first part is what `validate` asks for, so that the two can't differ; the second is for the commands that an
//! operator runs. Nothing in it lets anybody change or remove prices that were written.

use super::names::{Names, literal, quoted};
use super::validate::{Uses, needed};
use crate::config::Config;
use std::collections::BTreeSet;

/// The role that stands in the text where none is named.
const EXAMPLE_ROLE: &str = "stock_db_writer";
const HEADING: &str = "-- For a worker that runs as this role, with schema.manage = \"validate\":\n";
const HEADING_OF_EXAMPLE: &str = "\
-- A worker with schema.manage = \"validate\" can run as a role of its own, which needs no more than what follows. To have
-- it for your role, and not as a comment: stock-db-writer init --print --writer-role ROLE
";

/// The statements; without a role of one's own as comments.
pub fn sql(config: &Config, role: Option<&str>) -> String {
    let names = Names::new(&config.database);
    let (heading, prefix) = match role {
        Some(_) => (HEADING, ""),
        None => (HEADING_OF_EXAMPLE, "--     "),
    };
    let role = quoted(role.unwrap_or(EXAMPLE_ROLE));
    let lines = |statements: Vec<String>| -> String {
        statements.iter().map(|statement| format!("{prefix}{statement};\n")).collect()
    };
    format!(
        "{heading}{}\
         -- For the commands dead-letters and reset; it may also be given to a role of the operators' alone:\n{}\
         -- Tables of others whose ids are `serial` also need USAGE on the sequence; check names it.\n",
        lines(for_run(&names, Uses::of(config), &role)),
        lines(for_commands(&names, &role))
    )
}

fn for_run(names: &Names, uses: Uses, role: &str) -> Vec<String> {
    // The database's name is not known here.
    let grant = literal(&format!("GRANT CONNECT, TEMPORARY ON DATABASE %I TO {}", role.replace('%', "%%")));
    let block = literal(&format!("BEGIN EXECUTE format({grant}, current_database()); END"));
    let schemas: BTreeSet<&str> = names.all().iter().map(|table| table.schema.as_str()).collect();
    let schemas = schemas.iter().map(|schema| format!("GRANT USAGE ON SCHEMA {} TO {role}", quoted(schema)));
    let needed = needed(names, uses);
    let tables = needed.iter().filter(|table| !table.privileges.is_empty());
    let tables = tables.map(|needed| format!("GRANT {} ON {} TO {role}", needed.privileges.join(", "), needed.table));
    std::iter::once(format!("DO {block}")).chain(schemas).chain(tables).collect()
}

fn for_commands(names: &Names, role: &str) -> Vec<String> {
    let of_commands = [
        ("SELECT, UPDATE, DELETE", &names.dead_letters),
        ("SELECT, INSERT, UPDATE, DELETE", &names.gaps),
        ("DELETE", &names.offsets),
    ];
    of_commands.iter().map(|(privileges, table)| format!("GRANT {privileges} ON {table} TO {role}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn config(set: &[&str]) -> Config {
        let set = set.iter().map(ToString::to_string).collect();
        Config::load(&Sources { set, ..Sources::default() }).expect("the settings are right")
    }

    #[test]
    fn what_was_written_is_out_of_reach() {
        let sql = sql(&config(&[]), Some("w"));
        assert!(sql.contains("GRANT INSERT ON \"public\".\"stock_prices\" TO \"w\";\n"), "{sql}");
        assert!(!sql.contains("TRUNCATE") && !sql.contains("ALL"), "{sql}");
        assert!(!sql.lines().any(|line| line.contains("DELETE") && line.contains("stock_")), "{sql}");
    }

    #[test]
    fn no_name_ends_its_quotes() {
        let config = config(&["database.tables.prices=p\"; DROP TABLE y; --"]);
        let sql = sql(&config, Some("r'\"%; --"));
        let granted = "GRANT INSERT ON \"public\".\"p\"\"; DROP TABLE y; --\" TO \"r'\"\"%; --\";\n";
        assert!(sql.contains(granted), "{sql}");
        assert!(sql.contains("ON DATABASE %I TO \"r''''\"\"%%; --\"''"), "{sql}");
    }

    #[test]
    fn without_a_role_nothing_is_granted() {
        let sql = sql(&config(&[]), None);
        assert!(sql.lines().all(|line| line.starts_with("--")), "{sql}");
        assert!(sql.contains("--     GRANT USAGE ON SCHEMA \"public\" TO \"stock_db_writer\";\n"), "{sql}");
    }
}
