//! Prints each message of a journal, and continues where it left off when it is started again.
//!
//! ```sh
//! cargo run --example consume_and_resume -- DATA-DIR POSITIONS-FILE [--follow]
//! ```
//!
//! The positions are saved after the messages before them were printed. So after a crash, some messages may be printed
//! twice, but none is missed. A consumer that needs exactly-once processing stores the positions together with its
//! results, in the same transaction.

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use ringpost::journal::{Position, Reader, ReaderOptions, Start};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (data_dir, positions_file, follow) = match &arguments[..] {
        [data_dir, file] => (Path::new(data_dir), Path::new(file), false),
        [data_dir, file, option] if option == "--follow" => (Path::new(data_dir), Path::new(file), true),
        _ => return Err("usage: consume_and_resume DATA-DIR POSITIONS-FILE [--follow]".into()),
    };
    let start = Start::Positions(load(positions_file)?);
    let mut reader = Reader::open(data_dir, ReaderOptions::default().start(start).follow(follow))?;
    let mut out = io::stdout().lock();
    loop {
        let mut is_at_end = false;
        for _ in 0..MESSAGES_PER_SAVE {
            let Some(record) = reader.try_next() else {
                is_at_end = true;
                break;
            };
            let record = record?;
            writeln!(out, "{} {} {}", record.position, record.id, record.payload.escape_ascii())?;
        }
        // For example, retention may have removed messages before they were read.
        for note in reader.take_notes() {
            eprintln!("{note}");
        }
        out.flush()?;
        save(positions_file, &reader.positions())?;
        if is_at_end {
            if !follow {
                return Ok(());
            }
            reader.wait();
        }
    }
}

/// Reads the saved positions, one per line. Without a file, there are none, and reading begins at the beginning.
fn load(path: &Path) -> Result<Vec<Position>, Box<dyn Error>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        text => text?.lines().map(|line| Ok(line.parse()?)).collect(),
    }
}

/// Saves the positions atomically: whenever the process or the machine stops, the file has either the old or the new
/// positions.
fn save(path: &Path, positions: &[Position]) -> io::Result<()> {
    let text: String = positions.iter().map(|position| format!("{position}\n")).collect();
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// How many messages are printed before the positions are saved. This is also how many may be printed twice.
const MESSAGES_PER_SAVE: usize = 1000;
