//! The outcome, for people and for programs.

use serde_json::{Value, json};

use super::bar::{Bar, Figure};

#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: &'static str,
    pub(super) claim: &'static str,
    pub(super) bar: Bar,
    pub(super) figure: Option<Figure>,
    pub(super) holds: bool,
    /// Why it does not hold, where the figure does not tell.
    pub(super) note: Option<&'static str>,
}

/// In columns as wide as what stands in them.
pub(super) fn printed(rows: &[Row]) -> String {
    let head = ["id", "claim", "bar", "figure", "holds"].map(str::to_owned);
    let lines: Vec<[String; 5]> = std::iter::once(head)
        .chain(rows.iter().map(|row| {
            [
                row.id.to_owned(),
                row.claim.to_owned(),
                row.bar.to_string(),
                row.figure
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), Figure::to_string),
                match (row.holds, row.note) {
                    (true, _) => "yes".to_owned(),
                    (false, None) => "NO".to_owned(),
                    (false, Some(note)) => format!("NO: {note}"),
                },
            ]
        }))
        .collect();
    let mut widths = [0; 5];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut printed = String::new();
    for line in &lines {
        let cells = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let cells: Vec<_> = cells.collect();
        printed.push('\n');
        printed.push_str(cells.join("  ").trim_end());
    }
    printed
}

/// An array of objects with the keys `id`, `claim`, `bar`, `figure` (a number, a word or null) and `holds`.
pub(super) fn json(rows: &[Row]) -> String {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "id": row.id,
                "claim": row.claim,
                "bar": row.bar.to_string(),
                "figure": row.figure.as_ref().map(Figure::json),
                "holds": row.holds,
            })
        })
        .collect();
    format!("{:#}\n", Value::from(rows))
}

#[cfg(test)]
mod unit {
    use super::*;

    fn rows() -> [Row; 2] {
        let row = Row {
            id: "retry/budget",
            claim: "it bites",
            bar: Bar::AtMost(0.6),
            figure: Some(Figure::Number(0.5)),
            holds: true,
            note: None,
        };
        let missing = Row {
            id: "dlq/lost",
            claim: "nothing is lost, whatever breaks",
            bar: Bar::Equals(0.0),
            figure: None,
            holds: false,
            note: Some("no figure"),
        };
        [row, missing]
    }

    #[test]
    fn columns_stand_under_each_other() {
        assert_eq!(
            printed(&rows()),
            "\n\
             id            claim                             bar     figure  holds\n\
             retry/budget  it bites                          <= 0.6  0.5     yes\n\
             dlq/lost      nothing is lost, whatever breaks  = 0     -       NO: no figure"
        );
    }

    #[test]
    fn json_has_one_object_for_each_claim() {
        let read: Value = serde_json::from_str(&json(&rows())).unwrap();
        assert_eq!(
            read,
            json!([
                { "id": "retry/budget", "claim": "it bites", "bar": "<= 0.6", "figure": 0.5, "holds": true },
                {
                    "id": "dlq/lost", "claim": "nothing is lost, whatever breaks", "bar": "= 0",
                    "figure": null, "holds": false
                },
            ])
        );
    }
}
