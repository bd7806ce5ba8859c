//! Who may depend on whom among the workspace's crates.

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Every allowed edge; whatever is not here is refused. Tests may see everything.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("wirevm-abi", &[]),
    ("wirevm-map", &[]),
    ("wirevm-agent", &["wirevm-abi", "wirevm-map"]),
    ("wirevm-strings", &[]),
    ("wirevm-kernel", &["wirevm-abi", "wirevm-map", "wirevm-agent", "wirevm-strings"]),
    ("wirevm-user", &["wirevm-abi", "wirevm-strings"]),
    ("wirevm-devices", &["wirevm-abi"]),
    ("wirevm-vmm", &["wirevm-abi", "wirevm-devices"]),
    ("wirevm", &["wirevm-vmm", "wirevm-devices", "wirevm-agent", "wirevm-map", "wirevm-abi"]),
];

/// Returns the edges between workspace crates that the table does not allow.
fn forbidden(edges: &[(String, String)]) -> Vec<&(String, String)> {
    edges
        .iter()
        .filter(|(from, to)| {
            let allowed = ALLOWED.iter().find(|(name, _)| name == from).map(|(_, allowed)| *allowed);
            from != "wirevm-tests" && !allowed.is_some_and(|allowed| allowed.contains(&to.as_str()))
        })
        .collect()
}

#[test]
fn workspace_has_only_allowed_edges() {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata");
    let names: Vec<String> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let mut edges = Vec::new();
    for package in &metadata.packages {
        for dependency in package.dependencies.iter().filter(|it| it.kind != DependencyKind::Development) {
            if names.contains(&dependency.name) {
                edges.push((package.name.to_string(), dependency.name.clone()));
            }
        }
    }
    assert!(edges.len() >= 10, "the workspace's own edges are not found: {edges:?}");
    assert_eq!(forbidden(&edges), Vec::<&(String, String)>::new());
    for name in names {
        assert!(
            name == "wirevm-tests" || ALLOWED.iter().any(|(known, _)| *known == name),
            "{name} is not in the table"
        );
    }
}

#[test]
fn forbidden_edges_are_found() {
    let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    for bad in [
        edge("wirevm-map", "wirevm-abi"),
        edge("wirevm-user", "wirevm-map"),
        edge("wirevm-vmm", "wirevm-map"),
        edge("wirevm-devices", "wirevm-vmm"),
    ] {
        assert_eq!(forbidden(std::slice::from_ref(&bad)), [&bad]);
    }
    assert_eq!(
        forbidden(&[edge("wirevm", "wirevm-map"), edge("wirevm-tests", "wirevm-map")]),
        Vec::<&(String, String)>::new()
    );
}
