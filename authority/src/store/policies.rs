//! Policies of the whole project, by resource type.

use postern_proto::authority::ProjectPolicyRow;

use super::codec::Columns;
use super::{Connection, StoreError, Write};

/// # Errors
/// What SQLite reports.
pub async fn list(from: &mut impl Connection) -> Result<Vec<ProjectPolicyRow>, StoreError> {
    let rows = sqlx::query("SELECT * FROM policies ORDER BY resource_type").fetch_all(from.connection()).await?;
    rows.iter()
        .map(|row| {
            let row = Columns(row);
            Ok(ProjectPolicyRow { resource_type: row.text("resource_type")?, expression: row.text("expression")? })
        })
        .collect()
}

impl Write {
    /// # Errors
    /// What SQLite reports.
    pub async fn set_policy(&mut self, resource_type: &str, expression: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO policies (resource_type, expression) VALUES (?1, ?2)
             ON CONFLICT (resource_type) DO UPDATE SET expression = ?2",
        )
        .bind(resource_type)
        .bind(expression)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// True where there was one.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn delete_policy(&mut self, resource_type: &str) -> Result<bool, StoreError> {
        let changed =
            sqlx::query("DELETE FROM policies WHERE resource_type = ?").bind(resource_type).execute(self.connection()).await?;
        Ok(changed.rows_affected() == 1)
    }
}
