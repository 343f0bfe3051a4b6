//! The words that this project does not use, and what it says instead.

/// A word that is not used, in the contexts that are not allowed.
pub struct Banned {
    /// A regular expression, matched without regard to case.
    pub pattern: &'static str,
    /// Around a match, these are fine.
    pub allowed: &'static [&'static str],
    /// The words to write instead.
    pub instead: &'static str,
}

/// One meaning a word, one word a meaning.
pub const BANNED: &[Banned] = &[
    Banned { pattern: r"\bmend(s|ed|ing)?\b", allowed: &[], instead: "fix" },
    Banned {
        pattern: r"\bbehind\b",
        allowed: &[
            r"behind (a|the) (load balancer|proxy|feature|firewall|pointer|cargo feature|NAT)\b",
            r"(fall|falls|fell|fallen|lag|lags|far|further|bytes|records|messages|seconds|is|are|stay|stays|left) behind\b",
            r"leav(e|es|ing) (\w+ )?(\w+ )?behind\b",
        ],
        instead: "after",
    },
    Banned { pattern: r"\b(told|tells)\b", allowed: &[], instead: "reported, reports, distinguished" },
    Banned { pattern: r"\bat once\b", allowed: &[], instead: "immediately, or: at the same time" },
    Banned { pattern: r"\b(leave|leaves|left|leaving)( \w+)? away\b", allowed: &[], instead: "omit, drop" },
    Banned {
        pattern: r"\btak(e|es|ing|en) (no |any |an? |the |this |that |its |every |each |all )?(\w+ )?(options?|values?|settings?|memory|cpu|bytes|messages?|frames?|payloads?|requests?|acks?|submits?|descriptors?|connections?)\b",
        allowed: &[],
        instead: "accept, use, read, need",
    },
    Banned {
        pattern: r"\b(stands?|stood|standing)\b",
        allowed: &[r"\bstands? for\b", r"\bstand-?alone\b", r"\bstand-ins?\b", r"\bstands? still\b"],
        instead: "is, are, follows",
    },
    Banned {
        pattern: r"\bno more\b|\bnot any ?more\b|\bany ?more\b",
        allowed: &[
            r"\bno more (\w+ )*than\b",
            r"\b(accepts|that) no more\b",
            r"\bno more (bytes|messages|memory|data|room|space|records|frames|connections|acks)\b",
        ],
        instead: "no longer",
    },
    Banned {
        pattern: r"\b(is|are|was|were|has|have) none\b|[;:] none\b",
        allowed: &[r"there (is|are|was|were) none\b", r"display: none\b"],
        instead: "no, there is no",
    },
    Banned {
        pattern: r", for (it|they|he|there|this|that|these|those|nobody|neither)\b",
        allowed: &[],
        instead: "because, since",
    },
    Banned { pattern: r"\b(whom|whoever|whomever)\b", allowed: &[], instead: "which, that, the connection that" },
    Banned {
        pattern: r"\bowed\b|\bdeaf\b|\bstrangers?\b|\bdoors?\b|\blast words?\b",
        allowed: &[],
        instead: "a term of the field",
    },
    Banned {
        pattern: r"\bturn(s|ed|ing)?\b",
        allowed: &[
            r"\bin turns?\b",
            r"\bturn(s|ed|ing)? (\w+ )?(on|off|into|away|out|up|down|back|to)\b",
            r"\bturn(s|ed|ing)? \w+ (\w+ )?(on|off|into|away|out|up|down|back)\b",
        ],
        instead: "event-loop iteration",
    },
    Banned {
        pattern: r"\bworkers?\b",
        allowed: &[
            r"--workers?\b",
            r"\bblocking workers?\b",
            r"\bworkers = ",
            r"^workers$",
            r"\{workers\}",
            r"\bworker is a shard\b",
        ],
        instead: "shard",
    },
    Banned { pattern: r"\bsinks? (has|have|had) (not )?settled\b", allowed: &[], instead: "the outcome is known" },
    Banned { pattern: r"\breaders? shows?\b", allowed: &[], instead: "returns" },
    Banned { pattern: r"\b(has|have|had) gone\b", allowed: &[], instead: "closed, continued" },
    Banned { pattern: r"\bin vain\b", allowed: &[], instead: "without a result" },
];

/// Words that no sentence of prose begins with, unless it asks something.
pub const BANNED_BEGINNINGS: &[&str] =
    &["Who ", "Whoever ", "Whom ", "Whose ", "What ", "Where ", "Of ", "Those ", "The same "];
