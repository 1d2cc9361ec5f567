//! Parquet files as the hub's are, with a few rows.
#![allow(dead_code, clippy::unwrap_used, clippy::allow_attributes, reason = "helpers of several tests")]

use std::{fs::File, path::Path, sync::Arc};

use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

/// A column: texts, lists of texts, or numbers.
pub(crate) enum Column {
    Texts(Vec<&'static str>),
    Lists(Vec<Vec<&'static str>>),
    Numbers(Vec<i64>),
}

/// A parquet file as the hub's are: compressed by snappy, lists with three levels.
pub(crate) fn write(path: impl AsRef<Path>, schema: &str, columns: &[Column]) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let file = File::create(path.as_ref()).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in columns {
        let mut out = group.next_column().unwrap().unwrap();
        match column {
            Column::Texts(texts) => {
                let values: Vec<_> = texts.iter().map(|text| ByteArray::from(*text)).collect();
                let levels = vec![1; values.len()];
                out.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            }
            Column::Lists(lists) => {
                let values: Vec<_> = lists.iter().flatten().map(|text| ByteArray::from(*text)).collect();
                let definition = vec![3; values.len()];
                let repeated: Vec<i16> =
                    lists.iter().flat_map(|list| (0..list.len()).map(|index| i16::from(index > 0))).collect();
                let out = out.typed::<ByteArrayType>();
                out.write_batch(&values, Some(&definition), Some(&repeated)).unwrap();
            }
            Column::Numbers(numbers) => {
                let levels = vec![1; numbers.len()];
                out.typed::<Int64Type>().write_batch(numbers, Some(&levels), None).unwrap();
            }
        }
        out.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

pub(crate) const MMLU: &str = "message schema {
    optional binary question (UTF8);
    optional group choices (LIST) { repeated group list { optional binary element (UTF8); } }
    optional int64 answer;
}";

pub(crate) const ARC: &str = "message schema {
    optional binary id (UTF8);
    optional binary question (UTF8);
    required group choices {
        optional group text (LIST) { repeated group list { optional binary element (UTF8); } }
        optional group label (LIST) { repeated group list { optional binary element (UTF8); } }
    }
    optional binary answerKey (UTF8);
}";

pub(crate) const TEXTS: &str = "message schema { optional binary text (UTF8); }";
