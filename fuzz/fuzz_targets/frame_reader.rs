//! The frame reader classifies every header as the model does, and returns a length that makes progress.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::{FrameError, FrameReader};
use ringpost_fuzz::{FRAME_LEN_MAX, Head, head};

fuzz_target!(|stream: &[u8]| {
    let reader = FrameReader::new(1..=2, FRAME_LEN_MAX);
    let mut rest = stream;
    loop {
        let before = rest;
        let found = reader.next(&mut rest);
        let ours = match &found {
            Ok(None) => Head::Incomplete,
            Ok(Some(frame)) => Head::Frame { command: frame.command, id: &frame.id.0, body: frame.body },
            Err(FrameError::LengthTooSmall { .. }) => Head::LengthTooSmall,
            Err(FrameError::UnknownCommand { .. }) => Head::UnknownCommand,
            Err(FrameError::TooLarge { .. }) => Head::TooLarge,
            Err(error) => panic!("the model has no such error: {error}"),
        };
        assert_eq!(ours, head(before));
        match found {
            Ok(Some(frame)) => assert_eq!(rest, &before[13 + frame.body.len()..]),
            Ok(None) => {
                assert_eq!(rest, before);
                let need = reader.frame_len(rest);
                assert!(
                    need > rest.len() && need <= FRAME_LEN_MAX as usize,
                    "{need} bytes, {} have arrived",
                    rest.len()
                );
                return;
            }
            Err(_) => return assert_eq!(rest, before),
        }
    }
});
