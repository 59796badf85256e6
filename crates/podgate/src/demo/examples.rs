//! The examples of deploy/examples, embedded: the demo plays what `podgate test` checks.

/// One use case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Example {
    /// Its folder in deploy/examples.
    pub(super) name: &'static str,
    /// What it is about, in a line.
    pub(super) title: &'static str,
    /// Namespaces and policies.
    pub(super) manifests: [&'static str; 2],
    /// What is expected of it.
    pub(super) expectations: &'static str,
}

macro_rules! file {
    ($name:literal, $file:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/examples/", $name, "/", $file))
    };
}

macro_rules! example {
    ($name:literal, $title:literal) => {
        Example {
            name: $name,
            title: $title,
            manifests: [file!($name, "manifests/namespaces.yaml"), file!($name, "manifests/policy.yaml")],
            expectations: file!($name, "expectations.yaml"),
        }
    };
}

/// The node and the pods of every example.
pub(super) const PODS: &str = file!("no-policy", "manifests/pods.yaml");

/// No policy at all.
pub(super) const OPEN: &Example = &Example {
    name: "no-policy",
    title: "Nothing isolates anybody",
    manifests: [file!("no-policy", "manifests/namespaces.yaml"), ""],
    expectations: file!("no-policy", "expectations.yaml"),
};

/// The one that is edited while a client keeps connecting.
pub(super) const EDITED: &Example = &example!("allow-only-certain-pods", "Allow only certain pods (access=true)");

/// All of them, in the order of the story.
pub(super) const ALL: &[Example] = &[
    *OPEN,
    example!("isolate-a-namespace-by-annotation", "The old API: isolated by annotation, opened by extensions/v1beta1"),
    example!("deny-all-to-a-service", "networking.k8s.io/v1: deny all to a service"),
    *EDITED,
    example!("forbid-traffic-within-a-namespace", "Forbid traffic within a namespace"),
    example!("keep-other-namespaces-out", "Keep other namespaces out"),
    example!("allow-one-namespace", "Allow one other namespace"),
    example!("allow-the-outside-to-one-service", "Allow the outside world to one service"),
    example!("allow-a-range-of-addresses", "Allow a range of addresses, except some"),
    example!("allow-a-range-of-ports", "Allow a range of ports"),
    example!("limit-what-pods-reach", "Limit what pods reach (egress)"),
    example!("keep-pods-off-their-node", "ClusterNetworkPolicy: keep pods off their node"),
    example!("set-cluster-wide-defaults", "ClusterNetworkPolicy: before and after NetworkPolicies"),
];

impl Example {
    /// Namespaces and policies as one file, so that an act begins with one change.
    pub(super) fn text(&self) -> String {
        self.manifests.join("\n---\n")
    }

    /// The flows of the expectations, in their order. The examples have one on each line, with simple values; that
    /// they are what they seem is checked by `podgate test`, which reads them properly.
    pub(super) fn flows(&self) -> impl Iterator<Item = Flow> + use<> {
        self.expectations.lines().filter_map(Flow::read)
    }
}

/// What is to be tried, as far as the demo has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    /// Who.
    pub(super) from: &'static str,
    /// Whom.
    pub(super) to: &'static str,
    /// `TCP`, `UDP` or `ICMP`.
    pub(super) protocol: &'static str,
    /// The port, if the protocol has ports.
    pub(super) port: Option<u16>,
    /// The family, where it says one.
    pub(super) family: Option<u8>,
}

impl Flow {
    fn read(line: &'static str) -> Option<Self> {
        let fields = line.strip_prefix("- {")?.split_once('}')?.0;
        let field = |name: &str| {
            let found = fields.split(", ").find_map(|f| f.strip_prefix(name)?.strip_prefix(": "));
            found.map(|value| value.trim_matches('"'))
        };
        Some(Flow {
            from: field("from")?,
            to: field("to")?,
            protocol: field("protocol").unwrap_or("TCP"),
            port: field("port").and_then(|p| p.parse().ok()),
            family: field("family").and_then(|f| f.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_example_is_played() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
        let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|e| e.path().is_dir());
        let mut there: Vec<_> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
        there.sort();
        let mut played: Vec<_> = ALL.iter().map(|e| e.name.to_owned()).collect();
        played.sort();
        assert_eq!(there, played);
        let table = include_str!("../../../../deploy/examples/README.md");
        there.iter().for_each(|name| assert!(table.contains(&format!("[{name}]({name})")), "{name}"));
    }

    #[test]
    fn flows_are_read_from_their_lines() {
        let line = r#"- {from: a/b, to: "2001:db8::9", protocol: UDP, port: 53, family: 6, expect: allow}   # note"#;
        let flow = Flow { from: "a/b", to: "2001:db8::9", protocol: "UDP", port: Some(53), family: Some(6) };
        assert_eq!(Flow::read(line), Some(flow));
        let icmp = Flow::read("- {from: a/b, to: c/d, protocol: ICMP, expect: deny}").map(|f| (f.protocol, f.port));
        assert_eq!(icmp, Some(("ICMP", None)));
        assert_eq!(Flow::read("flows:"), None);
        for example in ALL {
            assert_eq!(example.flows().count(), example.expectations.matches("expect:").count(), "{}", example.name);
        }
    }

    #[test]
    fn every_example_has_the_same_pods() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
        for example in ALL {
            let text = std::fs::read_to_string(folder.join(example.name).join("manifests/pods.yaml")).unwrap();
            assert_eq!(text, PODS, "{}", example.name);
        }
    }
}
