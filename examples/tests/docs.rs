//! What `docs/` quotes is what the examples say, and its links lead somewhere.

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
    let page = page("embedding.md");
    let blocks: Vec<_> = page.match_indices("```rust\n").collect();
    assert!(blocks.len() >= 8, "each piece is shown");
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
    let pages = [
        "start.md",
        "authentication.md",
        "embedding.md",
        "nginx.md",
        "operating.md",
        "web-client.md",
        "../SECURITY.md",
        "../README.md",
    ];
    for name in pages {
        let page = page(name);
        for link in page.split("](").skip(1) {
            let link = link.split([')', '#']).next().unwrap();
            let folder = docs().join(name).parent().unwrap().to_path_buf();
            assert!(link.is_empty() || folder.join(link).exists(), "{name}: {link}");
        }
    }
}
