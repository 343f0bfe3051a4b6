//! The house rules, as tests: plain English, short lines, a head for every file, a doc comment for every public item,
//! and imports that follow the table of layers in the crate's documentation.
//!
//! To try a rule, break it: write "mend" in a comment, or import `crate::cli` in `src/proto/frame.rs`.

mod docs;
mod layers;
mod phrases;
mod source;
mod texts;
