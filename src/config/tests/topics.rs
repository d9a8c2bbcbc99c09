//! Section `topics`: names, patterns and settings.

use super::*;

#[test]
fn a_topic_needs_a_name_of_its_own() {
    assert_eq!(
        only_error("[[topics]]\ntarget = \"metrics\""),
        "writer.toml:2: topics.0.name: must be set, or topics.0.pattern instead"
    );
    assert_eq!(only_error("[[topics]]\n"), "writer.toml:1: topics.0: is empty");
    assert!(only_error("[[topics]]\nname = \"\"").ends_with("topics.0.name: must not be empty"));
    assert!(only_error("[[topics]]\nname = \"a b\"").starts_with("writer.toml:2: topics.0.name: must be 1 to 249"));
    let twice = "[[topics]]\nname = \"a\"\n[[topics]]\nname = \"a\"";
    assert_eq!(only_error(twice), "writer.toml:4: topics.1.name: \"a\" is listed twice");
}

#[test]
fn a_topic_has_a_name_or_a_pattern() {
    assert_eq!(
        only_error("[[topics]]\nname = \"a\"\npattern = \"^a$\""),
        "writer.toml:3: topics.0.pattern: a topic has a name or a pattern, not both"
    );
    for none in ["pattern = \"\"", "name = \"\"\npattern = \"\""] {
        assert_eq!(
            only_error(&format!("[[topics]]\n{none}")),
            "writer.toml:2: topics.0.name: must be set, or topics.0.pattern instead"
        );
    }
    // Empty is none: so that a flag can turn one into the other.
    let named = Given { file: "[[topics]]\nname = \"a\"\npattern = \"\"", ..Given::default() };
    assert_eq!(named.config().topics.names().collect::<Vec<_>>(), ["a"]);
    let turned = Given { set: &["topics.0.name=", "topics.0.pattern=^b"], ..named }.config();
    assert_eq!((turned.topics.names().count(), turned.topics.is_by_pattern("bc")), (0, true));
}

#[test]
fn a_pattern_is_a_regular_expression_of_its_own() {
    for (pattern, cause) in [("a(", "unclosed group"), ("[z-a]", "invalid character class range"), ("*", "repetition")]
    {
        let error = only_error(&format!("[[topics]]\npattern = '{pattern}'"));
        assert!(error.starts_with("writer.toml:2: topics.0.pattern: is no regular expression: "), "{error}");
        assert!(error.contains(cause) && error.ends_with(&format!(": {pattern:?}")), "{error}");
    }
    assert!(only_error("[[topics]]\npattern = 7").contains("topics.0.pattern: must be a string"));
    let twice = "[[topics]]\npattern = \"^a\"\n[[topics]]\npattern = \"^a\"";
    assert_eq!(only_error(twice), "writer.toml:4: topics.1.pattern: \"^a\" is listed twice");
}

#[test]
fn a_topic_is_read_by_its_name_else_by_the_first_pattern_that_matches() {
    let text = "[[topics]]\npattern = '_1m_data$'\nprice_min = 1\n\
                [[topics]]\npattern = '(?i)^aapl\\w+\\d'\nprice_min = 2\n\
                [[topics]]\nname = 'aapl_1m_data'\nprice_min = 3\n[[topics]]\nname = '__mine'\nprice_min = 4";
    let config = file(text).config();
    let price_min = |topic: &str| config.topics.settings(topic).map(|settings| settings.price_min.to_string());
    for (topic, expected) in [
        // A pattern matches anywhere, unless it is anchored.
        ("my.aapl_1m_data", Some("1")),
        ("aapl_5m_1m_data", Some("1")),
        ("AAPL_5", Some("2")),
        ("aapl_1m_data", Some("3")),
        ("aapl_1m_data2", Some("2")),
        ("other", None),
        // Kafka's own ones are read by name only.
        ("__internal_1m_data", None),
        ("__mine", Some("4")),
    ] {
        assert_eq!(price_min(topic).as_deref(), expected, "{topic}");
    }
    assert!(config.topics.is_by_pattern("AAPL_5") && !config.topics.is_by_pattern("aapl_1m_data"));
    assert_eq!(config.topics.pattern("my.aapl_1m_data").map(Pattern::as_str), Some("_1m_data$"));
    assert_eq!(config.topics.names().collect::<Vec<_>>(), ["aapl_1m_data", "__mine"]);
}

#[test]
fn the_settings_of_a_topic_are_read() {
    let text = "[[topics]]\nname = \"t\"\ntarget = \"metrics\"\nformat = \"metrics\"\nprice_min = -0.50\n\
                timezone = \"America/New_York\"";
    let config = file(text).config();
    let settings = config.topics.settings("t").expect("it is named");
    assert_eq!(settings.target, Target::Metrics);
    assert_eq!(settings.price_min.to_string(), "-0.50");
    assert_eq!(settings.timezone, chrono_tz::Tz::America__New_York);
    for (key, hint) in [
        ("timezone = \"Mars/Olympus\"", "is no zone of the IANA database"),
        ("target = \"rows\"", "must be"),
        ("format = \"xml\"", "must be"),
        ("timestamp_unit = \"h\"", "must be"),
        ("timestamp_missing = \"now\"", "must be"),
        ("price_min = \"cheap\"", "must be a number"),
        ("price_min = nan", "must be a number"),
        ("format = \"metrics\"", "has no rows for target"),
    ] {
        let error = only_error(&format!("[[topics]]\nname = \"t\"\n{key}"));
        assert!(error.starts_with("writer.toml:3: topics.0.") && error.contains(hint), "{key}: {error}");
    }
}
