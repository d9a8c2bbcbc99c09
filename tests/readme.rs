//! What the README says of codes and classes is complete.

use stock_db_writer::row::Class;

/// The first cells of the rows of the table below this heading.
fn first_cells(heading: &str) -> Vec<&'static str> {
    let readme = include_str!("../README.md");
    let section = readme.split(heading).nth(1).expect("the README has this heading");
    let section = section.split("\n#").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.filter_map(|row| row.split('|').nth(1)).map(str::trim).collect()
}

#[test]
fn every_class_of_dead_letters_has_its_line() {
    let classes: Vec<String> = Class::ALL.iter().map(|class| format!("`{}`", class.as_str())).collect();
    assert_eq!(first_cells("\n### Dead letters\n"), classes);
}

#[test]
fn what_it_works_with_is_what_has_run() {
    let (readme, page) = (include_str!("../README.md"), include_str!("../docs/compatibility.md"));
    let line = page.lines().find(|line| line.starts_with("Tested with ")).expect("the page says what was tested");
    assert!(readme.lines().any(|known| known == line), "the README should say: {line}");
}

#[test]
fn every_exit_code_has_its_line() {
    let codes = ["0", "64", "65", "69", "70", "74", "75", "77", "78", "130, 143"];
    assert_eq!(first_cells("\n### Exit codes\n"), codes);
}
