//! Dead letters on their way to a topic: which are still to be handed on, and the mark.

use super::{Fixture, PRICE, eventually, prices};
use std::collections::BTreeSet;
use stock_db_writer::database::PostgresLetters;
use stock_db_writer::dead_letters::Letter;
use stock_db_writer::fault::Fault;

/// So many letters of one partition.
fn letters(fixture: &mut Fixture, count: usize) {
    let epoch = fixture.claim(1);
    let values = vec!["no json"; count];
    assert!(fixture.write(&mut fixture.sink(), &prices(epoch, &[(0, &values)])));
    assert_eq!(fixture.number("SELECT count(*) FROM @.writer_dead_letters") as usize, count);
}

fn taken(letters: &mut PostgresLetters) -> Vec<Letter> {
    letters.take_unrelayed().expect("an answer").into_iter().map(|(letter, _)| letter).collect()
}

#[test]
fn each_letter_is_taken_until_it_is_marked_a_page_at_a_time() {
    let mut fixture = Fixture::new();
    letters(&mut fixture, 1_200);
    let mut relay = fixture.database.letters();
    let page = taken(&mut relay);
    assert!(!page.is_empty() && page.len() < 1_200, "{}", page.len());
    relay.leave_unrelayed();
    assert_eq!(taken(&mut relay), page, "what was left is taken again");
    let mut seen = BTreeSet::new();
    let mut page = page;
    while !page.is_empty() {
        seen.extend(page.iter().map(|letter| letter.id.clone()));
        relay.mark_relayed(&page, true).expect("marked");
        // A COMMIT in doubt: once more.
        relay.mark_relayed(&page, false).expect("marked already");
        page = taken(&mut relay);
    }
    assert_eq!(seen.len(), 1_200);
    assert_eq!(fixture.number("SELECT count(*) FROM @.writer_dead_letters WHERE relayed_at IS NULL"), 0);
}

#[test]
fn a_page_of_long_values_is_short_and_a_letter_has_its_records_value() {
    let fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let long = format!("no json {}", "x".repeat(900_000));
    let array = format!("[{PRICE},{{\"a\":1}},{{\"b\":2}}]");
    assert!(
        fixture.write(&mut fixture.sink(), &prices(epoch, &[(0, &[&array, &long, &long, &long, &long, &long, &long])]))
    );
    let mut relay = fixture.database.letters();
    let page = relay.take_unrelayed().expect("an answer");
    let values: Vec<&[u8]> = page.iter().map(|(_, value)| value.as_deref().expect("all were kept")).collect();
    assert_eq!(values[..2], [array.as_bytes(), array.as_bytes()], "both letters of a record");
    assert!((4..8).contains(&values.len()), "{} values of 900 kB are not more than some MB", values.len());
}

#[test]
fn one_process_at_a_time_takes_letters_and_no_writer_or_operator_waits_for_it() {
    let mut fixture = Fixture::new();
    letters(&mut fixture, 3);
    let (mut one, mut other) = (fixture.database.letters(), fixture.database.letters());
    let page = taken(&mut one);
    assert_eq!((page.len(), taken(&mut other).len()), (3, 0));
    // Letters that are on their way can be discarded, and are told of nevertheless.
    let discarded = other.discard(&Default::default(), None, 10).expect("an answer");
    assert_eq!(discarded.map(|(n, _)| n), Some(3));
    one.leave_unrelayed();
    assert_eq!(taken(&mut other), taken_again(&page, &mut one));
    drop(other);
    drop(one);
    // The server notices a little later that they are gone, and gives their lock back.
    eventually("the lock is free", || taken(&mut fixture.database.letters()).len() == 3);
}

/// The same letters, discarded meanwhile; the other process has them now.
fn taken_again(page: &[Letter], one: &mut PostgresLetters) -> Vec<Letter> {
    assert_eq!(taken(one), []);
    let ids: Vec<_> = page.iter().map(|letter| letter.id.clone()).collect();
    let filter = stock_db_writer::dead_letters::Filter { ids, closed_too: true, ..Default::default() };
    one.after(&filter, None, 10).expect("an answer")
}

#[test]
fn a_letter_that_was_written_anew_is_not_marked_for_the_old_one() {
    let mut fixture = Fixture::new();
    letters(&mut fixture, 2);
    let mut relay = fixture.database.letters();
    let page = taken(&mut relay);
    relay.leave_unrelayed();
    fixture.sql("UPDATE @.writer_dead_letters SET first_seen = now() + interval '1 ms' WHERE record_offset = 1");
    relay.mark_relayed(&page, false).expect("marked");
    let left = taken(&mut relay);
    assert_eq!(left.iter().map(|letter| letter.id.offset.0).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_trigger_that_keeps_letters_from_being_marked_is_said() {
    let mut fixture = Fixture::new();
    letters(&mut fixture, 2);
    fixture.sql(
        "CREATE FUNCTION @.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
         CREATE TRIGGER keep BEFORE UPDATE ON @.writer_dead_letters FOR EACH ROW EXECUTE FUNCTION @.keep()",
    );
    let mut relay = fixture.database.letters();
    let page = taken(&mut relay);
    let failure = relay.mark_relayed(&page, true).expect_err("nothing was marked");
    assert_eq!(failure.fault, Fault::Schema);
    assert!(failure.to_string().contains("2 of 2 could not be marked"), "{failure}");
}

#[test]
fn tables_of_before_the_relay_get_what_it_needs_and_work_without_it_for_who_relays_nothing() {
    let mut fixture = Fixture::new();
    fixture.sql("ALTER TABLE @.writer_dead_letters DROP COLUMN relayed_at");
    assert_eq!(fixture.database.validate().expect("an answer"), [], "nothing is relayed");
    fixture.reopen(&["dead_letters.topic=letters"]);
    let findings = fixture.database.validate().expect("an answer");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].message.contains("relayed_at") && findings[0].is_absence, "{findings:?}");
    let made = fixture.database.init().expect("it can be added").made;
    assert_eq!(made.len(), 2, "column and index: {made:?}");
    assert_eq!(fixture.database.validate().expect("an answer"), []);
    assert_eq!(fixture.database.init().expect("all is there").made, Vec::<String>::new());
}
