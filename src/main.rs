use clap::Parser;
fn main() {
    let _ = ringpost::cli::Cli::parse();
}
