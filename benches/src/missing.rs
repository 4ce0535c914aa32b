//! Peers that are not there, or fail while they are measured: told of in the table, and left out of it.

use crate::Result;
use crate::ways::Kind;

/// Ways that were not measured, or not to the end, and why.
#[derive(Debug, Default)]
pub struct Missing(Vec<(Kind, String)>);

impl Missing {
    /// Tells why that way is not measured.
    pub fn tell(&mut self, kind: Kind, why: String) {
        self.0.push((kind, why));
    }

    /// What `taken` holds; nothing where a peer failed, which is told of. Without the other ways there is no comparison: their
    /// failures end the run.
    pub fn unless_needed<T>(&mut self, kind: Kind, failure: &str, taken: Result<T>) -> Result<Option<T>> {
        match taken {
            Ok(taken) => Ok(Some(taken)),
            Err(error) if matches!(kind, Kind::Direct | Kind::Chain | Kind::Postern) => {
                Err(format!("{}: {failure}: {error}", kind.name()).into())
            }
            Err(error) => {
                self.tell(kind, format!("{failure}: {error}"));
                Ok(None)
            }
        }
    }

    /// Which ways, and why, in the order in which they failed.
    pub fn into_told(self) -> Vec<(Kind, String)> {
        self.0
    }
}
