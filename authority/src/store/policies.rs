//! Policies of the whole project, by resource type and by the nodes that they are for.

use postern_proto::authority::ProjectPolicyRow;

use super::codec::Columns;
use super::{Connection, StoreError, Write};

/// # Errors
/// What SQLite reports.
pub async fn list(from: &mut impl Connection) -> Result<Vec<ProjectPolicyRow>, StoreError> {
    let rows = sqlx::query("SELECT * FROM policies ORDER BY resource_type, applies_to").fetch_all(from.connection()).await?;
    rows.iter()
        .map(|row| {
            let row = Columns(row);
            Ok(ProjectPolicyRow {
                resource_type: row.text("resource_type")?,
                expression: row.text("expression")?,
                applies_to: Some(row.text("applies_to")?).filter(|text| !text.is_empty()),
            })
        })
        .collect()
}

impl Write {
    /// # Errors
    /// What SQLite reports.
    pub async fn set_policy(&mut self, resource_type: &str, applies_to: &str, expression: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO policies (resource_type, applies_to, expression) VALUES (?1, ?2, ?3)
             ON CONFLICT (resource_type, applies_to) DO UPDATE SET expression = ?3",
        )
        .bind(resource_type)
        .bind(applies_to)
        .bind(expression)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// True where there was one.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn delete_policy(&mut self, resource_type: &str, applies_to: &str) -> Result<bool, StoreError> {
        let changed = sqlx::query("DELETE FROM policies WHERE resource_type = ? AND applies_to = ?")
            .bind(resource_type)
            .bind(applies_to)
            .execute(self.connection())
            .await?;
        Ok(changed.rows_affected() == 1)
    }
}
