use super::report::Report;
pub fn page(_report: &Report) -> String {
    String::new()
}
