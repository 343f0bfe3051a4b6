//! Numbers as people read them: with commas, and with a unit of a suitable size.

/// Formats a number with commas: 1,234,567.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats microseconds with three digits and a unit of a suitable size: 352 µs, 1.64 ms, 1.01 s.
pub fn duration_text(us: f64) -> String {
    let (value, unit) = match us {
        us if us >= 999_500.0 => (us / 1e6, "s"),
        us if us >= 999.5 => (us / 1e3, "ms"),
        us => (us, "µs"),
    };
    let decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$} {unit}")
}

/// Formats nanoseconds without a unit: with a decimal below 1,000, with commas from there on.
pub fn nanos_text(nanos: f64) -> String {
    if nanos >= 1000.0 { count(nanos.round() as u64) } else { format!("{nanos:.1}") }
}

/// Formats bytes as megabytes of 1,000,000 bytes.
pub fn size(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1000, 1234567].map(count), ["0", "999", "1,000", "1,234,567"]);
        let us = [0.5, 9.999, 352.4, 999.9, 1640.0, 1_008_000.0];
        assert_eq!(us.map(duration_text), ["0.50 µs", "10.0 µs", "352 µs", "1.00 ms", "1.64 ms", "1.01 s"]);
        assert_eq!([85.84, 5309.4].map(nanos_text), ["85.8", "5,309"]);
    }
}
