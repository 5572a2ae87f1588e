//! What the crate exports is what sdk/surface.toml lists for Rust: no name less, none more.
//!
//! The sources are parsed, so it sees what is declared: public modules, re-exports, items, fields and inherent
//! methods. Trait implementations and the variants of enumerations are not in the list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::{Fields, ImplItem, Item, Type, UseTree, Visibility};

type Names = BTreeSet<String>;

/// The public items of one file: what each is called, and what belongs to it.
#[derive(Default)]
struct File {
    items: BTreeMap<String, Names>,
    /// What a `pub use` brings in: its path, and what it is called here.
    uses: Vec<(Vec<String>, String)>,
    modules: Vec<String>,
}

#[test]
fn every_export_is_listed_and_every_listed_name_is_exported() {
    let (listed, exported) = (listed(), exported());
    let missing: Vec<_> = listed.difference(&exported).collect();
    let more: Vec<_> = exported.difference(&listed).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "in sdk/surface.toml, not in the crate: {missing:#?}; in the crate, not in sdk/surface.toml: {more:#?}"
    );
}

/// Rust's spellings; where the file says none, `Attempt::number` for `Attempt.number`. The tests of sdk/python hold
/// the file to the lines that are read here.
fn listed() -> Names {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../surface.toml");
    let text = std::fs::read_to_string(path).expect("the list");
    let mut spelled: Vec<Vec<String>> = Vec::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix('[') {
            let (_, name) = head.split_once(".\"").expect("an area and a name");
            let name = name.strip_suffix("\"]").expect("the end of a name");
            spelled.push(vec![name.replace('.', "::")]);
        } else if let Some((key, value)) = line.split_once(" = ") {
            let last = spelled.last_mut().expect("an entry");
            match key {
                "rust" if value.starts_with('[') => {
                    *last = serde_json::from_str(value).expect("a list of strings");
                }
                "rust" => *last = vec![serde_json::from_str(value).expect("a string")],
                "absent.rust" => last.clear(),
                "only.rust" => {}
                _ if key.starts_with("only.") => last.clear(),
                _ => {}
            }
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "what is {line}?");
        }
    }
    let mut names = Names::new();
    for name in spelled.into_iter().flatten() {
        assert!(names.insert(name.clone()), "{name} is listed twice");
    }
    assert!(names.len() > 50, "the list has {} names", names.len());
    names
}

/// The names of the crate. What a public module shares with the root is named at the root only.
fn exported() -> Names {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let root = read(&source.join("lib.rs"));
    let mut names = Names::new();
    let mut at_root = BTreeSet::new();
    for (path, name) in &root.uses {
        let [module, item] = path.as_slice() else {
            panic!("a re-export of {path:?}")
        };
        add(&mut names, &source, module, item, name);
        at_root.insert((module.clone(), item.clone()));
    }
    for module in &root.modules {
        let file = read(&home(&source, module));
        let own = file.items.keys().cloned();
        let brought = file.uses.iter().map(|(_, name)| name.clone());
        for item in own.chain(brought) {
            if !at_root.contains(&(module.clone(), item.clone())) {
                add(
                    &mut names,
                    &source,
                    module,
                    &item,
                    &format!("{module}::{item}"),
                );
            }
        }
    }
    names.extend(root.items.keys().cloned());
    names
}

/// Adds an item of a module, and its members, under a name.
fn add(names: &mut Names, source: &Path, module: &str, item: &str, name: &str) {
    let file = read(&home(source, module));
    names.insert(name.to_owned());
    if let Some(members) = file.items.get(item) {
        names.extend(members.iter().map(|member| format!("{name}::{member}")));
        return;
    }
    let (path, _) = file
        .uses
        .iter()
        .find(|(_, here)| here == item)
        .unwrap_or_else(|| panic!("{module} has no {item}"));
    // What is generated is held to its contract by `make breaking`.
    if let [submodule, item] = path.as_slice() {
        let inner = read(&source.join(module).join(format!("{submodule}.rs")));
        let members = inner.items.get(item).into_iter().flatten();
        names.extend(members.map(|member| format!("{name}::{member}")));
    }
}

fn home(source: &Path, module: &str) -> PathBuf {
    source.join(format!("{module}.rs"))
}

fn read(path: &Path) -> File {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut file = File::default();
    let mut methods: BTreeMap<String, Names> = BTreeMap::new();
    for item in syn::parse_file(&text).expect("Rust").items {
        if let Item::Impl(block) = &item {
            if block.trait_.is_none() {
                methods
                    .entry(named(&block.self_ty))
                    .or_default()
                    .extend(methods_of(block));
            }
        } else {
            file.take(item);
        }
    }
    for (owner, names) in methods {
        match file.items.get_mut(&owner) {
            Some(members) => members.extend(names),
            None => assert!(
                names.is_empty() || is_private(&text, &owner),
                "{path:?} has public methods of {owner}, which is not declared there"
            ),
        }
    }
    file
}

/// A type that is declared in the same file and not public has methods that nobody outside can name.
fn is_private(text: &str, owner: &str) -> bool {
    [format!("struct {owner}"), format!("enum {owner}")]
        .iter()
        .any(|declaration| text.contains(declaration))
}

impl File {
    fn take(&mut self, item: Item) {
        let (visibility, attributes, name, members) = match item {
            Item::Struct(it) => (it.vis, it.attrs, it.ident, fields(&it.fields)),
            Item::Enum(it) => (it.vis, it.attrs, it.ident, Names::new()),
            Item::Fn(it) => (it.vis, it.attrs, it.sig.ident, Names::new()),
            Item::Const(it) => (it.vis, it.attrs, it.ident, Names::new()),
            Item::Static(it) => (it.vis, it.attrs, it.ident, Names::new()),
            Item::Type(it) => (it.vis, it.attrs, it.ident, Names::new()),
            Item::Union(it) => (it.vis, it.attrs, it.ident, Names::new()),
            Item::Trait(it) => (it.vis, it.attrs, it.ident, methods_of_trait(&it.items)),
            Item::Mod(it) if it.content.is_none() => {
                if is_public(&it.vis) {
                    self.modules.push(it.ident.to_string());
                }
                return;
            }
            Item::Mod(it) => (it.vis, it.attrs, it.ident, Names::new()),
            Item::Use(it) => {
                if is_public(&it.vis) {
                    flatten(&it.tree, Vec::new(), &mut self.uses);
                }
                return;
            }
            Item::Macro(it) => {
                assert!(
                    !it.attrs
                        .iter()
                        .any(|each| each.path().is_ident("macro_export")),
                    "an exported macro has no place in the list yet"
                );
                return;
            }
            _ => return,
        };
        // `--cfg fuzzing` and tests are no part of the library.
        let always = !attributes.iter().any(|each| each.path().is_ident("cfg"));
        if is_public(&visibility) && always {
            self.items.insert(name.to_string(), members);
        }
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn fields(fields: &Fields) -> Names {
    let public = fields.iter().filter(|field| is_public(&field.vis));
    public
        .filter_map(|field| Some(field.ident.as_ref()?.to_string()))
        .collect()
}

fn methods_of(block: &syn::ItemImpl) -> Names {
    let items = block.items.iter().filter_map(|item| match item {
        ImplItem::Fn(it) if is_public(&it.vis) => Some(it.sig.ident.to_string()),
        ImplItem::Const(it) if is_public(&it.vis) => Some(it.ident.to_string()),
        _ => None,
    });
    items.collect()
}

fn methods_of_trait(items: &[syn::TraitItem]) -> Names {
    let items = items.iter().filter_map(|item| match item {
        syn::TraitItem::Fn(it) => Some(it.sig.ident.to_string()),
        _ => None,
    });
    items.collect()
}

fn named(kind: &Type) -> String {
    match kind {
        Type::Path(it) => it.path.segments.last().map(|each| each.ident.to_string()),
        _ => None,
    }
    .unwrap_or_default()
}

fn flatten(tree: &UseTree, mut path: Vec<String>, into: &mut Vec<(Vec<String>, String)>) {
    match tree {
        UseTree::Path(it) => {
            path.push(it.ident.to_string());
            flatten(&it.tree, path, into);
        }
        UseTree::Name(it) => {
            path.push(it.ident.to_string());
            into.push((path, it.ident.to_string()));
        }
        UseTree::Rename(it) => {
            path.push(it.ident.to_string());
            into.push((path, it.rename.to_string()));
        }
        UseTree::Group(it) => {
            for each in &it.items {
                flatten(each, path.clone(), into);
            }
        }
        UseTree::Glob(_) => panic!("a public glob of {path:?} cannot be read"),
    }
}
