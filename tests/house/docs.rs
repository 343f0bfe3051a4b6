//! Every public item has a doc comment, also in private modules, where the compiler does not ask for one.

use syn::visit::{self, Visit};

use crate::source;

#[test]
fn every_public_item_has_a_doc_comment() {
    let mut faults = Vec::new();
    for path in source::rust_files("src") {
        let mut search = Search { faults: Vec::new(), in_public_trait: false };
        search.visit_file(&source::parse(&path));
        faults.extend(search.faults.into_iter().map(|(line, name)| format!("{}:{line}: {name}", path.display())));
    }
    assert!(faults.is_empty(), "{} public items without a doc comment:\n{}", faults.len(), faults.join("\n"));
}

struct Search {
    faults: Vec<(usize, String)>,
    in_public_trait: bool,
}

impl Search {
    fn check(&mut self, visibility: &syn::Visibility, attributes: &[syn::Attribute], name: &syn::Ident) {
        if !matches!(visibility, syn::Visibility::Inherited) {
            self.check_attributes(attributes, name);
        }
    }

    fn check_attributes(&mut self, attributes: &[syn::Attribute], name: &syn::Ident) {
        if !attributes.iter().any(|attribute| attribute.path().is_ident("doc")) {
            self.faults.push((name.span().start().line, name.to_string()));
        }
    }
}

impl<'ast> Visit<'ast> for Search {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.check(&item.vis, &item.attrs, &item.sig.ident);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.check(&item.vis, &item.attrs, &item.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.check(&item.vis, &item.attrs, &item.ident);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.check(&item.vis, &item.attrs, &item.ident);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        if item.ident != "_" {
            self.check(&item.vis, &item.attrs, &item.ident);
        }
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.check(&item.vis, &item.attrs, &item.ident);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.check(&item.vis, &item.attrs, &item.ident);
        self.in_public_trait = !matches!(item.vis, syn::Visibility::Inherited);
        visit::visit_item_trait(self, item);
        self.in_public_trait = false;
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if self.in_public_trait {
            self.check_attributes(&item.attrs, &item.sig.ident);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if item.trait_.is_none() && !is_for_tests(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            self.check(&item.vis, &item.attrs, &item.sig.ident);
        }
    }
}

/// Whether an item exists only in tests.
pub fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => return false,
        };
        attribute.path().is_ident("cfg") && (text == "test" || text.contains("all (test"))
    })
}
