//! Rows of the data sets, in the hub's own formats: parquet and JSON lines.
//!
//! **Invariant:** only bytes with the right digest are read, and still a row without the fields of its task is an error.

use std::fs::File;

use anyhow::{Context as _, bail, ensure};
use camino::Utf8Path;
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::{Field, Row},
};

/// A question with its choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) id: String,
    pub(super) question: String,
    pub(super) choices: Vec<String>,
    /// Index of the right one.
    pub(super) answer: usize,
}

/// Columns of every row of a parquet file.
fn rows(path: &Utf8Path) -> anyhow::Result<Vec<Row>> {
    let file = File::open(path).with_context(|| format!("{path}: cannot be opened"))?;
    let reader = SerializedFileReader::new(file).with_context(|| format!("{path}: no parquet file"))?;
    let rows = reader.get_row_iter(None).with_context(|| format!("{path}"))?;
    rows.map(|row| row.with_context(|| format!("{path}: a row cannot be read"))).collect()
}

fn column<'a>(row: &'a Row, name: &str) -> anyhow::Result<&'a Field> {
    let mut columns = row.get_column_iter();
    let found = columns.find(|(column, _)| *column == name);
    found.map(|(_, field)| field).with_context(|| format!("got no column `{name}`"))
}

fn string(field: &Field) -> anyhow::Result<String> {
    match field {
        Field::Str(text) => Ok(text.clone()),
        other => bail!("got {other}, expected a text"),
    }
}

fn strings(field: &Field) -> anyhow::Result<Vec<String>> {
    match field {
        Field::ListInternal(list) => list.elements().iter().map(string).collect(),
        other => bail!("got {other}, expected a list of texts"),
    }
}

fn each<T>(path: &Utf8Path, read: impl Fn(usize, &Row) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
    let rows = rows(path)?;
    let one =
        |(number, row): (usize, &Row)| read(number, row).with_context(|| format!("{path}: row {number}"));
    rows.iter().enumerate().map(one).collect()
}

/// The column `text` of each row.
pub(super) fn texts(path: &Utf8Path) -> anyhow::Result<Vec<String>> {
    each(path, |_, row| string(column(row, "text")?))
}

/// MMLU: `question`, `choices`, and `answer` as an index.
pub(super) fn mmlu(path: &Utf8Path) -> anyhow::Result<Vec<Question>> {
    each(path, |number, row| {
        let choices = strings(column(row, "choices")?)?;
        let answer = match column(row, "answer")? {
            Field::Long(index) => usize::try_from(*index).ok(),
            Field::Int(index) => usize::try_from(*index).ok(),
            _ => None,
        };
        let answer = answer.filter(|index| *index < choices.len()).context("got no index of a choice")?;
        let question = string(column(row, "question")?)?;
        Ok(Question { id: format!("mmlu-{number}"), question, choices, answer })
    })
}

/// ARC: `id`, `question`, `choices` with `text` and `label`, and `answerKey`, a label.
pub(super) fn arc(path: &Utf8Path) -> anyhow::Result<Vec<Question>> {
    each(path, |_, row| {
        let Field::Group(choices) = column(row, "choices")? else {
            bail!("choices: expected text and label")
        };
        let (texts, labels) = (strings(column(choices, "text")?)?, strings(column(choices, "label")?)?);
        ensure!(texts.len() == labels.len(), "got {} choices and {} labels", texts.len(), labels.len());
        let key = string(column(row, "answerKey")?)?;
        let answer = labels.iter().position(|label| *label == key);
        let answer = answer.with_context(|| format!("got the key `{key}`, expected one of {labels:?}"))?;
        let (id, question) = (string(column(row, "id")?)?, string(column(row, "question")?)?);
        Ok(Question { id, question, choices: texts, answer })
    })
}

#[cfg(test)]
#[path = "../../../tests/parquet_file/mod.rs"]
mod parquet_file;

#[cfg(test)]
mod tests {
    use super::*;

    use super::parquet_file::{ARC, Column, MMLU, write};

    fn place(folder: &tempfile::TempDir) -> camino::Utf8PathBuf {
        Utf8Path::from_path(folder.path()).unwrap().join("data.parquet")
    }

    #[test]
    fn questions_of_mmlu_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = place(&folder);
        let columns = [
            Column::Texts(vec!["2 + 2?", "Capital of France?"]),
            Column::Lists(vec![vec!["3", "4"], vec!["Rome", "Bonn", "Paris"]]),
            Column::Numbers(vec![1, 2]),
        ];
        write(&path, MMLU, &columns);
        let found = mmlu(&path).unwrap();
        assert_eq!(found[0].choices, ["3", "4"]);
        let second = Question {
            id: "mmlu-1".into(),
            question: "Capital of France?".into(),
            choices: ["Rome", "Bonn", "Paris"].map(str::to_owned).into(),
            answer: 2,
        };
        assert_eq!(found[1], second);
        let error = format!("{:#}", texts(&path).unwrap_err());
        assert!(error.contains("row 0: got no column `text`"), "{error}");
    }

    #[test]
    fn questions_of_arc_are_read_and_a_key_that_is_no_label_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = place(&folder);
        let columns = |key| {
            [
                Column::Texts(vec!["Q1"]),
                Column::Texts(vec!["What falls?"]),
                Column::Lists(vec![vec!["an apple", "a star"]]),
                Column::Lists(vec![vec!["1", "2"]]),
                Column::Texts(vec![key]),
            ]
        };
        write(&path, ARC, &columns("2"));
        let found = arc(&path).unwrap();
        assert_eq!((found[0].id.as_str(), found[0].answer, found[0].choices.len()), ("Q1", 1, 2));
        write(&path, ARC, &columns("C"));
        let error = format!("{:#}", arc(&path).unwrap_err());
        assert!(error.contains("row 0: got the key `C`"), "{error}");
    }

    #[test]
    fn what_is_no_parquet_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = place(&folder);
        std::fs::write(&path, b"version https://git-lfs").unwrap();
        assert!(format!("{:#}", texts(&path).unwrap_err()).contains("no parquet file"));
    }
}
