//! Rows as the gateway's protobuf message `CellSet`. Four small fields need no code generator: lengths, tags and bytes.

use bytes::Bytes;

/// Wire type 2 of protobuf: a length and so many bytes.
const BYTES: u8 = 2;
/// Wire type 0: a number in groups of seven bits.
const NUMBER: u8 = 0;

/// Many rows on their way to the gateway.
#[derive(Default)]
pub(super) struct CellSet {
    message: Vec<u8>,
    row: Vec<u8>,
    cell: Vec<u8>,
    has_cells: bool,
}

impl CellSet {
    /// Begins a row; the one before must have been ended.
    pub(super) fn begin(&mut self, key: &[u8]) {
        self.row.clear();
        self.has_cells = false;
        // CellSet.Row.key
        put_bytes(&mut self.row, 1, key);
    }

    /// Adds a cell to the row. `column` is `family:qualifier`; without a timestamp the server gives its own.
    pub(super) fn cell(&mut self, column: &[u8], timestamp: Option<u64>, data: &[u8]) {
        self.has_cells = true;
        self.cell.clear();
        // Cell.column, Cell.timestamp, Cell.data
        put_bytes(&mut self.cell, 2, column);
        if let Some(timestamp) = timestamp {
            put_tag(&mut self.cell, 3, NUMBER);
            put_number(&mut self.cell, timestamp);
        }
        put_bytes(&mut self.cell, 4, data);
        // CellSet.Row.values
        put_bytes(&mut self.row, 2, &self.cell);
    }

    /// Ends the row. One without cells is left out, for HBase has none such; says whether it was taken.
    pub(super) fn end(&mut self) -> bool {
        if self.has_cells {
            // CellSet.rows
            put_bytes(&mut self.message, 1, &self.row);
        }
        self.has_cells
    }

    /// The bytes so far.
    pub(super) fn len(&self) -> usize {
        self.message.len()
    }

    /// The message, leaving an empty one.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.message).into()
    }
}

fn put_tag(message: &mut Vec<u8>, field: u8, wire_type: u8) {
    message.push((field << 3) | wire_type);
}

fn put_number(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(((number & 0x7f) as u8) | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

fn put_bytes(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_tag(message, field, BYTES);
    put_number(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_written_as_the_protocol_says() {
        let mut cells = CellSet::default();
        cells.begin(b"k");
        cells.cell(b"cf:a", Some(300), b"v");
        assert!(cells.end());
        // rows { key: "k" values { column: "cf:a" timestamp: 300 data: "v" } }
        let expected = b"\x0a\x11\x0a\x01k\x12\x0c\x12\x04cf:a\x18\xac\x02\x22\x01v";
        assert_eq!(&cells.take()[..], expected);
        assert_eq!(cells.len(), 0);
    }

    #[test]
    fn a_row_without_cells_is_left_out() {
        let mut cells = CellSet::default();
        cells.begin(b"k");
        assert!(!cells.end());
        assert!(cells.take().is_empty());
    }

    #[test]
    fn lengths_beyond_one_byte_are_written_in_groups_of_seven_bits() {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, &[7; 200]);
        assert_eq!(message[..3], [0x0a, 0xc8, 0x01]);
        assert_eq!(message.len(), 203);
    }
}
