//! The guides quote the examples, every link of a page has a target, and the page of faults is readable.

use std::fs;
use std::path::{Path, PathBuf};

/// Pages that rustdoc shows, too, link to the repository by this address.
const REPOSITORY: [&str; 2] = [
    "https://github.com/roomcast/roomcast/blob/main/",
    "https://github.com/roomcast/roomcast/tree/main/",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The lines of a text, however far they are indented.
fn lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim())).collect()
}

#[test]
fn guides_quote_the_example_named_before() {
    let examples = examples();
    for (crate_name, quotations) in
        [("chat-core", 1), ("chat-broker", 10), ("chat-transport", 4), ("chat-server", 6)]
    {
        let page = fs::read_to_string(root().join(crate_name).join("GUIDE.md")).unwrap();
        let blocks: Vec<_> = page.match_indices("```rust,ignore\n").collect();
        assert!(blocks.len() >= quotations, "{crate_name}: {} quotations", blocks.len());
        for (start, fence) in blocks {
            let (before, code) = (&page[..start], &page[start + fence.len()..]);
            let code = code.split("```").next().unwrap();
            let (name, example) = examples
                .iter()
                .max_by_key(|(name, _)| before.rfind(&format!("[`{name}`]")))
                .unwrap();
            assert!(lines(example).contains(&lines(code)), "{name} has no such lines:\n{code}");
            assert!(page.contains(&format!("cargo run -p examples --example {name}\n")), "{name}");
        }
    }
}

/// The example programs by name, with their text.
fn examples() -> Vec<(String, String)> {
    let entries = fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn links_have_targets() {
    let pages = pages(&root());
    assert!(pages.len() >= 10, "{pages:?}");
    let mut anchors = 0;
    for page in &pages {
        for link in links(&prose(page)) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match REPOSITORY.iter().find_map(|address| path.strip_prefix(address)) {
                Some(path) => root().join(path),
                None if path.is_empty() => page.clone(),
                None => page.parent().unwrap().join(path),
            };
            assert!(target.exists(), "{}: {link}", page.display());
            if !anchor.is_empty() {
                anchors += 1;
                let known = headings(&prose(&target));
                assert!(known.iter().any(|one| one == anchor), "{}: {link}", page.display());
            }
        }
    }
    assert!(anchors >= 10, "{anchors} links to headings");
}

#[test]
fn book_has_every_page_once() {
    let docs = root().join("docs");
    let summary = docs.join("SUMMARY.md");
    let listed: Vec<_> = links(&prose(&summary)).iter().map(|link| docs.join(link)).collect();
    for page in pages(&docs).into_iter().filter(|page| *page != summary) {
        let times = listed.iter().filter(|one| **one == page).count();
        assert_eq!(times, 1, "in docs/SUMMARY.md: {}", page.display());
    }
}

/// The user of Redis in compose has the rights that the documentation says that servers need.
#[test]
fn compose_has_the_documented_rights() {
    let compose = fs::read_to_string(root().join("deploy/compose.yaml")).unwrap();
    let page = fs::read_to_string(root().join("docs/redis.md")).unwrap();
    let rights = page.split("ACL SETUSER chat on >PASSWORD resetchannels &chat:* ~chat:* ").nth(1);
    let rights = rights.unwrap().lines().next().unwrap();
    assert!(compose.contains(rights), "{rights}");
}

/// A longer text belongs below a heading.
#[test]
fn cells_of_the_page_of_faults_are_short() {
    let page = fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    for row in page.lines().filter(|line| line.starts_with('|')) {
        let is_long = |cell: &&str| cell.trim_matches(['|', ' ']).chars().count() > 200;
        assert_eq!(row.split(" | ").find(is_long), None, "at most 200 characters");
    }
}

/// All pages of the repository: what lies below `folder`, but for what is built or hidden.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        // Cargo marks its directory, wherever it is, but not one that was there before.
        let is_built = path.join("CACHEDIR.TAG").exists() || name == "target";
        !name.starts_with('.') && !is_built && name != "node_modules"
    };
    let (folders, files): (Vec<_>, Vec<_>) =
        entries.filter(is_ours).partition(|path| path.is_dir() && !path.is_symlink());
    let here = files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "md"));
    here.chain(folders.iter().flat_map(|folder| pages(folder))).collect()
}

/// A page without its blocks of code, in which nothing is a link or a heading.
fn prose(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap();
    text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// The links to files: those in the text, and those defined as `[name]: link`.
fn links(prose: &str) -> Vec<String> {
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let definitions = prose.lines().filter(|line| line.starts_with('['));
    let defined = definitions.filter_map(|line| Some(line.split_once("]: ")?.1));
    let is_ours = |link: &&str| {
        !link.contains("://") || REPOSITORY.iter().any(|address| link.starts_with(address))
    };
    inline.chain(defined).filter(is_ours).map(str::to_owned).collect()
}

/// The anchors of a page, by the rule of GitHub: letters, digits, hyphens and underscores of a
/// heading, small, with hyphens for spaces; and a number for one that was there before.
fn headings(prose: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    let lines = prose.lines().filter(|line| line.starts_with('#'));
    for heading in lines.map(|line| line.trim_start_matches('#').trim().to_lowercase()) {
        // Of a link, its text alone is shown.
        let shown = heading.split("](").enumerate().map(|(n, part)| match n {
            0 => part,
            _ => part.split_once(')').map_or("", |(_, after)| after),
        });
        let shown: String = shown.collect();
        let kept = |next: &char| next.is_alphanumeric() || matches!(next, ' ' | '-' | '_');
        let anchor: String = shown.chars().filter(kept).collect::<String>().replace(' ', "-");
        let before = anchors.iter().filter(|one| **one == anchor).count();
        anchors.push(if before == 0 { anchor } else { format!("{anchor}-{before}") });
    }
    anchors
}
