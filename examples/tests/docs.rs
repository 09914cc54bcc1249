//! What `docs/` quotes is what the examples say, the links of all pages have targets, and the page
//! of faults is readable.

use std::fs;
use std::path::{Path, PathBuf};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn page(name: &str) -> String {
    fs::read_to_string(docs().join(name)).unwrap()
}

/// The lines of a text, however far they are indented.
fn lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim())).collect()
}

#[test]
fn quotations_are_those_of_the_example_named_before_them() {
    for page in ["embedding.md", "rust-client.md"].map(page) {
        assert_quotations(&page);
    }
}

fn assert_quotations(page: &str) {
    let blocks: Vec<_> = page.match_indices("```rust\n").collect();
    assert!(blocks.len() >= 3, "each piece is shown");
    for (start, fence) in blocks {
        let (before, code) = (&page[..start], &page[start + fence.len()..]);
        let code = code.split("```").next().unwrap();
        let name = before.rsplit("](../examples/").next().unwrap().split(".rs)").next().unwrap();
        let example = fs::read_to_string(docs().join(format!("../examples/{name}.rs")))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(lines(&example).contains(&lines(code)), "{name} does not say\n{code}");
        assert!(page.contains(&format!("cargo run -p examples --example {name}\n")), "{name}");
    }
}

#[test]
fn links_lead_somewhere() {
    let pages = pages(&docs().join("..").canonicalize().unwrap());
    assert!(pages.len() >= 10, "{pages:?}");
    let mut anchors = 0;
    for page in &pages {
        for link in links(&prose(page)) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = page.parent().unwrap().join(path);
            let target = if path.is_empty() { page.clone() } else { target };
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

/// A longer text belongs below a heading.
#[test]
fn cells_of_the_page_of_faults_are_short() {
    for row in page("reliability.md").lines().filter(|line| line.starts_with('|')) {
        let long =
            row.split(" | ").find(|cell| cell.trim_matches(['|', ' ']).chars().count() > 200);
        assert_eq!(long, None, "at most 200 characters");
    }
}

/// All pages of the repository: what lies below `folder`, except what is built or hidden.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        !name.starts_with('.') && !path.join("CACHEDIR.TAG").exists() && name != "node_modules"
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

/// Those to files.
fn links(prose: &str) -> Vec<String> {
    let links = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links.filter(|link| !link.contains("://")).map(str::to_owned).collect()
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
