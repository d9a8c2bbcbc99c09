//! Passwords, which nothing prints.

use std::fmt;
use std::path::Path;

/// Refuses a file with a secret that every user of this machine can read or change.
///
/// Its owner and its group may: a container that runs as an ordinary user is given its secrets by their group.
pub fn refuse_public(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| format!("reading {shown}: {error}"))?;
    let what = match metadata.permissions().mode() {
        mode if mode & 0o002 != 0 => "changed",
        mode if mode & 0o004 != 0 => "read",
        _ => return Ok(()),
    };
    Err(format!(
        "{shown} can be {what} by every user of this machine; run chmod 600 {shown} \
         (in Kubernetes: defaultMode 0440, with an fsGroup)"
    ))
}

/// A password, or a URL that may hold one. `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text that must not be shown.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// Reads a file without its last newline. One that is [not for everybody](refuse_public) only.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        refuse_public(path)?;
        let text = std::fs::read_to_string(path).map_err(|error| format!("reading {shown}: {error}"))?;
        match text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line)) {
            "" => Err(format!("{shown} is empty")),
            secret => Ok(Secret(secret.to_owned())),
        }
    }

    /// The text itself, for the call that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!((format!("{secret}"), format!("{secret:?}")), ("***".to_owned(), "***".to_owned()));
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn a_file_gives_its_text_without_the_last_newline() {
        let path = std::env::temp_dir().join(format!("stock-db-writer-secret-{}", std::process::id()));
        let read = |text: &str, mode: u32| {
            fs::write(&path, text).expect("the temporary directory takes files");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the file is ours");
            Secret::from_file(&path).map(|secret| secret.reveal().to_owned())
        };
        for text in ["hunter2", "hunter2\n", "hunter2\r\n"] {
            assert_eq!(read(text, 0o600), Ok("hunter2".to_owned()));
        }
        assert_eq!(read(" spaces stay \n\n", 0o440), Ok(" spaces stay \n".to_owned()));
        assert!(read("\n", 0o600).is_err_and(|error| error.ends_with("is empty")));
        for (mode, what) in [(0o644, "read"), (0o604, "read"), (0o602, "changed"), (0o666, "changed")] {
            let error = read("hunter2", mode).expect_err("everybody may do that");
            assert!(
                error.contains(&format!("can be {what} by every user of this machine; run chmod 600 /")),
                "{error}"
            );
            assert!(error.ends_with("(in Kubernetes: defaultMode 0440, with an fsGroup)"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        fs::remove_file(&path).expect("the file is ours");
        assert!(Secret::from_file(&path).is_err_and(|error| error.starts_with("reading ")));
    }
}
