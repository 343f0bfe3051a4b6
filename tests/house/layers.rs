//! Imports go one way, as the table of layers in the head of `src/lib.rs` permits, and never in a circle, neither between
//! layers nor between files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::docs::is_for_tests;
use crate::source;

/// A module's path below the crate, such as `["server", "listen"]`.
type Module = Vec<String>;

/// One import: the module of the file that it is in, the module that it names, and its place.
struct Import {
    from: Module,
    to: Module,
    place: String,
}

#[test]
fn imports_follow_the_table_of_layers() {
    let table = Table::read();
    let mut faults = Vec::new();
    for import in imports() {
        let (Some(from), Some(to)) = (table.row_of(&import.from), table.row_of(&import.to)) else {
            let missing = if table.row_of(&import.from).is_none() { &import.from } else { &import.to };
            faults.push(format!("{}: the table has no row for `{}`", import.place, missing.join("::")));
            continue;
        };
        if from != to && !table.allows(from, to) {
            faults.push(format!("{}: `{from}` may not use `{to}`", import.place));
        }
    }
    faults.sort();
    faults.dedup();
    assert!(
        faults.is_empty(),
        "{} imports that the table in src/lib.rs does not allow:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// A row may only use rows above it, so that the table itself has no circle. It lists no arrow that the code does not
/// need.
#[test]
fn the_table_of_layers_has_no_circle_and_is_not_wider_than_the_code() {
    let table = Table::read();
    let position = |name: &str| table.rows.iter().position(|(row, _)| row == name);
    let imports = imports();
    let mut faults = Vec::new();
    for (at, (row, allowed)) in table.rows.iter().enumerate() {
        for target in allowed {
            match position(target) {
                None => faults.push(format!("`{row}` may use `{target}`, which has no row")),
                Some(other) if other >= at => faults.push(format!("`{row}` may use `{target}`, which is not above it")),
                Some(_) => {}
            }
            let used = imports.iter().any(|import| {
                table.row_of(&import.from) == Some(row) && table.row_of(&import.to) == Some(target.as_str())
            });
            if !used {
                faults.push(format!("`{row}` may use `{target}`, and does not"));
            }
        }
    }
    assert!(faults.is_empty(), "the table of layers in src/lib.rs:\n{}", faults.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut arrows: BTreeMap<&Module, BTreeMap<&Module, &str>> = BTreeMap::new();
    for import in imports() {
        arrows.entry(&import.from).or_default().entry(&import.to).or_insert(&import.place);
    }
    let reaches = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&Module> = arrows.get(from).into_iter().flat_map(|to| to.keys().copied()).collect();
        while let Some(module) = open.pop() {
            if seen.insert(module) {
                open.extend(arrows.get(module).into_iter().flat_map(|to| to.keys().copied()));
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = arrows.keys().map(|from| (*from, reaches(from))).collect();
    let mut faults = Vec::new();
    for (from, targets) in &arrows {
        for (to, place) in targets {
            if reached.get(to).is_some_and(|back| back.contains(from)) {
                faults.push(format!("{place}: `{}` -> `{}`", from.join("::"), to.join("::")));
            }
        }
    }
    assert!(faults.is_empty(), "{} imports are part of a circle:\n{}", faults.len(), faults.join("\n"));
}

/// Prints the imports of every module that has a row of its own, for a change of the table.
#[test]
#[ignore = "prints the arrows for a person to read"]
fn prints_the_arrows_between_modules() {
    let row = |module: &Module| match module.as_slice() {
        [first, second, ..]
            if first == "server" && ["listen", "shard", "connection", "thread"].contains(&second.as_str()) =>
        {
            format!("{first}::{second}")
        }
        [first, ..] => first.clone(),
        [] => "(root)".to_owned(),
    };
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for import in imports() {
        let (from, to) = (row(&import.from), row(&import.to));
        if from != to {
            arrows.entry(from).or_default().insert(format!("`{to}`"));
        }
    }
    for (from, to) in arrows {
        println!("//! | `{from}` | {} |", to.into_iter().collect::<Vec<_>>().join(", "));
    }
}

/// clap is named in `cli/` alone, and tokio_uring in `ring/` alone.
#[test]
fn what_one_module_owns_no_other_names() {
    let mut faults = Vec::new();
    for (owner, krate) in [("cli", "clap"), ("ring", "tokio_uring")] {
        for path in source::rust_files("src") {
            let tokens: TokenStream = source::read(&path).parse().unwrap();
            let is_owner = path.starts_with(Path::new("src").join(owner));
            if !is_owner && names_crate(tokens, krate) {
                faults.push(format!("{} names {krate}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn names_crate(tokens: TokenStream, krate: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => names_crate(group.stream(), krate),
        TokenTree::Ident(ident) => ident == krate,
        _ => false,
    })
}

/// The table of layers: every module, from the lowest, with the modules that it may use.
struct Table {
    rows: Vec<(String, Vec<String>)>,
}

impl Table {
    fn read() -> Table {
        let head = source::read(Path::new("src/lib.rs"));
        let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let (_, table) = head.split_once("<!-- layers -->").expect("src/lib.rs marks its table of layers");
        let (table, _) = table.split_once("<!-- end of layers -->").expect("src/lib.rs marks the end of its table");
        let mut rows: Vec<(String, Vec<String>)> = Vec::new();
        for line in table.lines().filter_map(|line| line.strip_prefix("//! | `")) {
            let (name, rest) = line.split_once("` |").expect("a row is | `module` | `a`, `b` |");
            // A module with many arrows has several rows, one after the other.
            match rows.last_mut() {
                Some((last, allowed)) if last == name => allowed.extend(quoted(rest)),
                _ => rows.push((name.to_owned(), quoted(rest))),
            }
        }
        assert!(rows.len() > 10, "only {} layers", rows.len());
        Table { rows }
    }

    /// The most specific row for a module.
    fn row_of(&self, module: &[String]) -> Option<&str> {
        (1..=module.len()).rev().find_map(|len| {
            let name = module[..len].join("::");
            self.rows.iter().map(|(row, _)| row.as_str()).find(|row| *row == name)
        })
    }

    fn allows(&self, from: &str, to: &str) -> bool {
        self.rows.iter().any(|(row, allowed)| row == from && allowed.iter().any(|it| it == to))
    }
}

/// Every import of the library, but for those of tests and of the crate's root, which only lists what is public.
fn imports() -> &'static [Import] {
    static IMPORTS: OnceLock<Vec<Import>> = OnceLock::new();
    IMPORTS.get_or_init(read_imports)
}

fn read_imports() -> Vec<Import> {
    let files: BTreeMap<Module, PathBuf> = source::rust_files("src")
        .into_iter()
        .filter(|path| !BINARY.iter().any(|of_binary| path == Path::new(of_binary)))
        .map(|path| (module_of(&path), path))
        .collect();
    let mut for_tests = BTreeSet::new();
    let mut found = Vec::new();
    for (module, path) in &files {
        let mut search = Search {
            files: &files,
            path,
            module: module.clone(),
            inside: Vec::new(),
            for_tests: Vec::new(),
            found: Vec::new(),
        };
        search.visit_file(&source::parse(path));
        for_tests.extend(search.for_tests);
        found.extend(search.found);
    }
    found.retain(|import| {
        let of_test = |module: &Module| for_tests.iter().any(|test: &Module| module.starts_with(test));
        !import.from.is_empty() && !of_test(&import.from) && !of_test(&import.to)
    });
    assert!(found.len() > 200, "only {} imports", found.len());
    found
}

fn module_of(path: &Path) -> Module {
    let path = path.strip_prefix("src").unwrap().with_extension("");
    let mut parts: Module = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

struct Search<'files> {
    files: &'files BTreeMap<Module, PathBuf>,
    path: &'files Path,
    module: Module,
    /// The inline modules that the visitor is in.
    inside: Module,
    /// Files that exist only in tests.
    for_tests: Vec<Module>,
    found: Vec<Import>,
}

impl Search<'_> {
    fn add(&mut self, path: &[syn::Ident]) {
        let Some(first) = path.first() else { return };
        let line = first.span().start().line;
        let names = path.iter().map(ToString::to_string).collect::<Vec<_>>();
        let here = [&self.module[..], &self.inside[..]].concat();
        let mut absolute = match names[0].as_str() {
            "crate" => Vec::new(),
            "self" | "super" => here.clone(),
            // A child of the module that is being read.
            child => {
                let module = [&here[..], &[child.to_owned()]].concat();
                if !self.files.contains_key(&module) {
                    return;
                }
                here.clone()
            }
        };
        for name in &names {
            match name.as_str() {
                "crate" | "self" => {}
                "super" => drop(absolute.pop()),
                other => absolute.push(other.to_owned()),
            }
        }
        let target = (0..=absolute.len()).rev().map(|len| &absolute[..len]).find(|it| self.files.contains_key(*it));
        let target = target.unwrap_or(&[]).to_vec();
        if target != self.module {
            let place = format!("{}:{line}", self.path.display());
            self.found.push(Import { from: self.module.clone(), to: target, place });
        }
    }

    fn walk(&mut self, prefix: &[syn::Ident], tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => self.walk(&[prefix, std::slice::from_ref(&path.ident)].concat(), &path.tree),
            syn::UseTree::Name(name) => self.add(&[prefix, std::slice::from_ref(&name.ident)].concat()),
            syn::UseTree::Rename(name) => self.add(&[prefix, std::slice::from_ref(&name.ident)].concat()),
            syn::UseTree::Glob(_) => self.add(prefix),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.walk(prefix, tree)),
        }
    }

    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<syn::Ident> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => path.push(ident),
                TokenTree::Ident(ident) => path = vec![ident],
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.add_from_macro(&std::mem::take(&mut path));
                    self.scan(group.stream());
                }
                _ => self.add_from_macro(&std::mem::take(&mut path)),
            }
            colons = 0;
        }
        self.add_from_macro(&path);
    }

    fn add_from_macro(&mut self, path: &[syn::Ident]) {
        if path.len() > 1 {
            self.add(path);
        }
    }
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        if is_for_tests(&item.attrs) {
            if item.content.is_none() {
                self.for_tests.push([&self.module[..], &self.inside[..], &[name]].concat());
            }
        } else {
            self.inside.push(name);
            visit::visit_item_mod(self, item);
            self.inside.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.walk(&[], &item.tree);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let path: Vec<_> = path.segments.iter().map(|segment| segment.ident.clone()).collect();
            self.add(&path);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.scan(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    /// `pub(in crate::server)` is no import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}

/// Files of the binary, which is a crate of its own.
const BINARY: &[&str] = &["src/main.rs", "src/name_lookup.rs"];
