//! Where there is as little as can be: no environment, no home, no terminal, no file to write, a user that nobody knows,
//! no stdout or stderr, or ones on a full disk.

use crate::harness::{Invocation, LIMIT, Stage};
use std::path::PathBuf;

/// In a shell: `"$@"` is the worker with its arguments.
fn shell(script: &'static str) -> [&'static str; 4] {
    ["/bin/sh", "-c", script, "sh"]
}

/// A run that drains, and then one that is told to end; both must be as good as any other.
fn works(test: &str, script: &'static str) {
    let stage = Stage::new(test, 2);
    let invocation = stage.invocation().under(&shell(script));
    stage.produce(2_000);
    let output = invocation.output(&["run", "--until-end"]).expect_code(0);
    assert_no_panic(&output.said());
    stage.assert_exactly_once();
    stage.produce(2_000);
    let worker = invocation.start(&["run"]);
    stage.wait_until_drained(LIMIT);
    let output = worker.stop();
    assert_no_panic(&output.said());
    stage.assert_exactly_once();
}

#[track_caller]
fn assert_no_panic(said: &str) {
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn no_environment_is_enough() {
    // What it needs is on the command line here; the URL holds no secret.
    works("bare_env", r#"url=$DATABASE_URL; worker=$1; shift; exec env -i "$worker" --set "database.url=$url" "$@""#);
}

#[test]
fn a_session_without_a_terminal_is_enough() {
    works("bare_tty", r#"exec setsid "$@" </dev/null"#);
}

#[test]
fn closed_streams_are_none_of_its_business() {
    works("bare_closed", r#"exec "$@" <&- >&- 2>&-"#);
}

#[test]
fn a_full_disk_below_its_log_is_none_of_its_business() {
    works("bare_full", r#"exec "$@" >/dev/full 2>&1"#);
}

/// As root, as CI is, it becomes somebody else; elsewhere it is nobody in particular anyway. All that it can write to is
/// taken away, by a mount that only it sees.
#[test]
fn a_read_only_file_system_and_an_unknown_user_are_enough() {
    works(
        "bare_read_only",
        // The file systems of the kernel itself can't be mounted again, and hold no file of ours.
        r#"[ "$(id -u)" = 0 ] || exec "$@"
        exec unshare --mount /bin/sh -c '
            # What lies in a directory that only root may enter is put where all may.
            mount -t tmpfs -o mode=755 tmpfs /mnt
            cp "$1" /mnt/worker
            chmod 755 /mnt/worker
            mount -o remount,bind,ro /mnt
            mount -o remount,bind,ro /
            mount -t tmpfs -o ro,mode=555 tmpfs /tmp
            cd /mnt
            shift
            ! touch /tmp/x /var/tmp/x /mnt/x 2>/dev/null || exit 1
            exec setpriv --reuid=54321 --regid=54321 --clear-groups --no-new-privs --inh-caps=-all /mnt/worker "$@"
        ' sh "$@""#,
    );
}

#[test]
fn an_error_keeps_its_code_where_it_cant_be_said() {
    for script in [r#"exec "$@" >/dev/full 2>&1"#, r#"exec "$@" >&- 2>&-"#] {
        let bare = Invocation::new(PathBuf::from("/")).under(&shell(script));
        bare.output(&["frobnicate"]).expect_code(64);
        bare.clone().set("batch.rows_max", 0).output(&["run"]).expect_code(78);
        let away = bare.clone().env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none");
        away.set("retry.max_outage_s", 1).output(&["status"]).expect_code(69);
    }
}

#[test]
fn results_that_cant_be_written_are_one_clear_line() {
    let stage = Stage::new("bare_stdout", 1);
    stage.produce(10);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    let full = stage.invocation().under(&shell(r#"exec "$@" >/dev/full"#)).env("RUST_LOG", "off");
    for arguments in [
        &["init", "--print"][..],
        &["init"],
        &["status"],
        &["status", "--json"],
        &["check"],
        &["explain", "/proc/self/limits"],
        &["dead-letters", "list"],
    ] {
        // Without a row there is nothing to be written.
        let output = full.output(arguments);
        if arguments == ["dead-letters", "list"] && output.code == 0 {
            continue;
        }
        let output = output.expect_code(74);
        assert_eq!(
            output.stderr.trim_end(),
            "stock-db-writer: writing to stdout: No space left on device (os error 28)",
            "{arguments:?}"
        );
    }
}

#[test]
fn a_directory_that_is_gone_is_none_of_its_business() {
    let script = r#"directory=$(mktemp -d) && cd "$directory" && rmdir "$directory" && exec "$@""#;
    Invocation::new(PathBuf::from("/")).under(&shell(script)).output(&["init", "--print"]).expect_code(0);
}
