//! The pages of the project's documentation: README.md and docs/, as they are in the repository.
//!
//! It exists only in rustdoc, which compiles the examples in these pages and checks the links between them. On GitHub
//! those links lead to files. Here each page begins with definitions of the same labels that lead to modules, and the
//! first definition of a label counts.

macro_rules! pages {
    ($($(#[$before:meta])* $name:ident: $file:literal;)*) => {
        $($(#[$before])*
        #[doc = links!()]
        #[doc = include_str!($file)]
        pub mod $name {})*
    };
}

macro_rules! links {
    () => {
        "\
[access]: crate::docs::journal#read-access
[architecture]: crate::docs::architecture
[benchmarks]: crate::docs::benchmarks
[consuming]: crate::docs::journal#consuming
[deploying]: crate::docs::deploying
[docker]: crate::docs::deploying#docker
[doctor]: crate::docs::operating#doctor
[engines]: crate::docs::architecture#engines
[engines measured]: crate::docs::benchmarks#io_uring-and-epoll
[failures]: crate::docs::journal#failure-modes
[journal]: crate::docs::journal
[kubernetes]: crate::docs::deploying#kubernetes
[limits]: crate::docs::operating#limits
[metrics]: crate::docs::metrics
[operating]: crate::docs::operating
[options]: crate::docs::options
[protocol]: crate::docs::protocol
[proving]: crate::docs::journal#proving-it
[releasing]: crate::docs::releasing
[security]: crate::docs::security
[static]: crate::docs::benchmarks#the-static-binary
[takeover]: crate::docs::takeover
[tls-files]: crate::docs::security#certificates-and-keys
"
    };
}

pages! {
    readme: "../README.md";
    protocol: "../docs/protocol.md";
    // rustdoc has no file for the page's image, so the picture is a part of the page here.
    #[doc = "<style>img[src='architecture.svg'] { display: none }</style>"]
    #[doc = include_str!("../docs/architecture.svg")]
    #[doc = ""]
    architecture: "../docs/architecture.md";
    journal: "../docs/journal.md";
    operating: "../docs/operating.md";
    options: "../docs/options.md";
    metrics: "../docs/metrics.md";
    takeover: "../docs/takeover.md";
    security: "../docs/security.md";
    deploying: "../docs/deploying.md";
    benchmarks: "../docs/benchmarks.md";
    releasing: "../docs/releasing.md";
}
