//! Secrets: shown nowhere, and read only from files that are.

use super::*;

#[test]
fn no_complaint_and_no_debug_output_shows_a_secret() {
    const URL: &str = "postgresql://me:hunter2@db/stocks";
    for text in [
        "[database]\nurl = postgresql://me:hunter2@db/stocks\n".to_owned(),
        "[database]\nurl = \"postgresql://me:hunter2@db/stocks\n".to_owned(),
        format!("[database]\nurl = \"{URL}\"\nurl = \"{URL}\"\n"),
        format!("[database]\nurl = [\"{URL}\"]\n"),
        format!("[database]\nurl = {{ a = \"{URL}\" }}\n"),
        format!("[database]\nurl = \"{URL}?sslmode=require\"\n"),
        "[database]\nurl = \"mysql://me:hunter2@db/stocks\"\n".to_owned(),
        "[database]\npassword = \"hunter2\"\n".to_owned(),
        "[kafka.sasl]\npassword = \"hunter2\"\n".to_owned(),
        format!("[database]\ntls = 1\nurl = \"{URL}\"\n"),
    ] {
        let errors = file(&text).errors().join("\n");
        assert!(!errors.contains("hunter2"), "{errors}");
    }
    for bad in ["postgresql://me:hunter2@hunter2@db", "hunter2", "postgres//me:hunter2@db", "password=my hunter2"] {
        let errors = environment(&[("DATABASE_URL", bad)]).errors().join("\n");
        assert!(errors.starts_with("DATABASE_URL: database.url: "), "{errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
    }
    let errors = set(&[&format!("database.url={URL}")]).errors().join("\n");
    assert!(errors.contains("which other users of this machine can see") && !errors.contains("hunter2"), "{errors}");
    let config = environment(&[("DATABASE_URL", URL), ("PGPASSWORD", "hunter2")]).config();
    assert!(!format!("{config:?}").contains("hunter2"));
    let config = environment(&[("PGPASSWORD", "hunter2")]).config();
    assert!(config.database.password.is_some() && !format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_secret_that_everybody_can_read_is_refused_with_its_line() {
    let scratch = Scratch::new();
    let (secret, certificate) = (scratch.public("secret", "hunter2"), scratch.public("cert.pem", "x"));
    let private = scratch.file("key.pem", "x");
    let file = format!(
        "[database]\ntls = \"verify-full\"\npassword_file = {secret:?}\nca_file = {certificate:?}\n\
         cert_file = {certificate:?}\nkey_file = {secret:?}\n\
         [kafka.tls]\nenable = true\ncert_file = {certificate:?}\nkey_file = {secret:?}\n\
         [kafka.sasl]\nmechanism = \"PLAIN\"\nusername = \"me\"\npassword_file = {secret:?}"
    );
    let errors = Given { file: &file, ..Given::default() }.errors();
    let said = format!("{} can be read by every user of this machine; run chmod 600 ", secret.display());
    for (line, key) in [
        (3, "database.password_file"),
        (6, "database.key_file"),
        (10, "kafka.tls.key_file"),
        (14, "kafka.sasl.password_file"),
    ] {
        let start = format!("writer.toml:{line}: {key}: {said}");
        assert!(errors.iter().any(|error| error.starts_with(&start)), "{start}\n{errors:#?}");
    }
    assert_eq!(errors.len(), 4, "{errors:#?}");
    let fine = file.replace(&secret.display().to_string(), &private.display().to_string());
    Given { file: &fine, ..Given::default() }.config();
    let url =
        format!("postgresql://db/s?sslcert={}&sslkey={}&sslmode=verify-full", certificate.display(), secret.display());
    let errors = Given { environment: &[("DATABASE_URL", &url)], ..Given::default() }.errors();
    let said = "database.url: sslkey names a file that every user of this machine can read or change; run chmod 600";
    assert_eq!(errors, [format!("DATABASE_URL: {said}")]);
}
