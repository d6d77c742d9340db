//! `field`: a number that the data have of each example, such as a rating, or by how much one answer is the better one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Asked, Column, Known};
use crate::{
    Result,
    error::Place,
    grid::asked::{Knowledge, Made},
    stage::kinds::student,
};

/// `field` of a method or a grid.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Field {
    /// The column of the data: one of the rows, one of the task's `[compute]`, or a path into a nested one. It holds a number in every row of the
    /// student's half.
    name: String,
    /// Takes a number without its sign: that of a difference of ratings would say who is right. Origin: original.
    absolute: bool,
}

inventory::submit! {
    Known { name: "field", title: "the field of the data", read, schema: |generator| generator.subschema_for::<Field>() }
}

/// A method's table over the grid's.
fn read(asked: &Asked) -> Result<Box<dyn Column>> {
    let settings: Field = asked.settings()?;
    if settings.name.is_empty() {
        let message = format!("method `{}` reads a field of the data, and nothing says which", asked.method);
        return Err(asked
            .error("name", message)
            .help("add `field = { name = \"COLUMN\" }` to the method, or `[field]` to the grid"));
    }
    let at = asked.tables().find_map(|table| table.get("name")).map(|name| name.place());
    Ok(Box::new(Named { settings, at }))
}

/// A field, and where its name stands.
#[derive(Debug)]
struct Named {
    settings: Field,
    at: Option<Place>,
}

impl Column for Named {
    fn make(&self, around: &Knowledge, _made: &mut Made) -> Result<student::Column> {
        let Field { name, absolute } = &self.settings;
        let scores = around.desk.field(name, *absolute, around.tasks, around.data, around.seed);
        let scores = scores.map_err(|error| self.at.iter().fold(error, |error, at| error.or_at(at)))?;
        Ok(student::Column::Stage { scores })
    }

    fn in_data(&self) -> bool {
        true
    }
}
