//! Between columns and types. What a column holds was written by this program, so a value that does not fit is damage.

use postern_proto::time::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::StoreError;

/// SQLite's integers are signed; a time beyond them is as good as for ever.
pub fn time(at: Timestamp) -> i64 {
    i64::try_from(at.as_unix()).unwrap_or(i64::MAX)
}

pub fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::damaged(format!("a value that has no JSON form ({error})")))
}

/// Reads one row by column name.
pub struct Columns<'a>(pub &'a SqliteRow);

impl Columns<'_> {
    pub fn bytes<const N: usize>(&self, column: &str) -> Result<[u8; N], StoreError> {
        self.0.try_get::<&[u8], _>(column)?.try_into().map_err(|_| StoreError::damaged(format!("column `{column}`")))
    }

    pub fn optional_bytes<const N: usize>(&self, column: &str) -> Result<Option<[u8; N]>, StoreError> {
        let value: Option<&[u8]> = self.0.try_get(column)?;
        value.map(|bytes| bytes.try_into().map_err(|_| StoreError::damaged(format!("column `{column}`")))).transpose()
    }

    pub fn blob(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        Ok(self.0.try_get(column)?)
    }

    pub fn number<T: TryFrom<i64>>(&self, column: &str) -> Result<T, StoreError> {
        self.0.try_get::<i64, _>(column)?.try_into().map_err(|_| StoreError::damaged(format!("column `{column}`")))
    }

    pub fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        self.number(column).map(Timestamp::from_unix)
    }

    pub fn optional_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        let value: Option<i64> = self.0.try_get(column)?;
        value
            .map(|seconds| u64::try_from(seconds).map(Timestamp::from_unix))
            .transpose()
            .map_err(|_| StoreError::damaged(format!("column `{column}`")))
    }

    pub fn flag(&self, column: &str) -> Result<bool, StoreError> {
        Ok(self.0.try_get::<i64, _>(column)? != 0)
    }

    pub fn text(&self, column: &str) -> Result<String, StoreError> {
        Ok(self.0.try_get(column)?)
    }

    pub fn optional_text(&self, column: &str) -> Result<Option<String>, StoreError> {
        Ok(self.0.try_get(column)?)
    }

    pub fn parsed<T: std::str::FromStr>(&self, column: &str) -> Result<T, StoreError> {
        self.0.try_get::<&str, _>(column)?.parse().map_err(|_| StoreError::damaged(format!("column `{column}`")))
    }

    pub fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        serde_json::from_str(self.0.try_get(column)?).map_err(|error| StoreError::damaged(format!("column `{column}` ({error})")))
    }
}
