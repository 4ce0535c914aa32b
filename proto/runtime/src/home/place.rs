//! Where the home is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Why it cannot be said where the home is.
#[derive(Debug, thiserror::Error)]
pub enum NoPlace {
    #[error("neither POSTERN_HOME, XDG_STATE_HOME nor HOME says where to keep state")]
    NoVariable,
    #[error("`{}` cannot be made an absolute path", path.display())]
    NotAbsolute { path: PathBuf, source: std::io::Error },
}

/// The home that `explicit` names (a flag or `POSTERN_HOME`), else `$XDG_STATE_HOME/postern`, else `~/.local/state/postern`.
///
/// # Errors
/// Where nothing says where it is.
pub fn locate(explicit: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, NoPlace> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let path = match explicit.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => path.to_owned(),
        // The XDG specification says that a relative path is to be ignored.
        None => match set("XDG_STATE_HOME").filter(|path| path.is_absolute()) {
            Some(state) => state.join("postern"),
            None => set("HOME").ok_or(NoPlace::NoVariable)?.join(".local/state/postern"),
        },
    };
    // A daemon leaves the working directory.
    std::path::absolute(&path).map_err(|source| NoPlace::NotAbsolute { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order() {
        let env = |set: &'static [(&str, &str)]| {
            move |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        let both: &[_] = &[("XDG_STATE_HOME", "/state"), ("HOME", "/home/u")];
        assert_eq!(locate(Some(Path::new("/x")), env(both)).unwrap(), Path::new("/x"));
        assert_eq!(locate(None, env(both)).unwrap(), Path::new("/state/postern"));
        assert_eq!(locate(None, env(&[("HOME", "/home/u")])).unwrap(), Path::new("/home/u/.local/state/postern"));
        assert_eq!(
            locate(None, env(&[("XDG_STATE_HOME", "relative"), ("HOME", "/home/u")])).unwrap(),
            Path::new("/home/u/.local/state/postern")
        );
        assert!(locate(None, env(&[("HOME", "")])).is_err());
        assert!(locate(Some(Path::new("here")), env(both)).unwrap().is_absolute());
    }
}
