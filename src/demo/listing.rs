//! The step that shows what all this looks like in the kernel.

use std::process::Command;

use anyhow::{Result, bail};

use super::netns::Namespace;
use super::screen::thousands;
use super::steps::{Story, WEB_IPS};
use super::wiring;

/// The parts of the table that serve a ClusterIP with three endpoints.
const SHOWN: [&str; 4] = ["map services", "map endpoints", "chain pick-3", "chain dispatch"];
/// What begins the elements of a set or map.
const ELEMENTS: &str = "elements = {";

/// The IPv4 table as text.
pub(super) struct ListingText {
    /// Who has printed it.
    pub by: &'static str,
    /// The table in nft's language.
    pub text: String,
}

impl ListingText {
    /// As the `nft` program prints it; where there is none, read back and printed by Portway.
    pub(super) fn of(node: &Namespace) -> Result<Self> {
        node.run(|| match Command::new("nft").args(["list", "table", "ip", "portway"]).output() {
            Ok(output) if output.status.success() => {
                Ok(Self { by: "nft list table ip portway", text: String::from_utf8(output.stdout)? })
            }
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                bail!("nft cannot list the table: {} ({})", said.trim(), output.status)
            }
            Err(_) => Ok(Self { by: "read back by Portway, as nft is not installed", text: wiring::read_back()? }),
        })
    }

    /// The number of rules, in all chains.
    pub(super) fn rules(&self) -> usize {
        let mut in_chain = false;
        let mut rules = 0;
        for line in self.text.lines().map(str::trim) {
            match line {
                "}" => in_chain = false,
                line if line.starts_with("chain ") => in_chain = true,
                line if in_chain && !line.is_empty() && !line.starts_with("type ") => rules += 1,
                _ => {}
            }
        }
        rules
    }

    /// The lines of [`SHOWN`], without declarations, and with those elements only whose key begins with `address`.
    fn excerpt(&self, address: &str) -> Vec<String> {
        let mut out = Vec::new();
        let mut lines = self.text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            let Some(head) = line.strip_suffix(" {").filter(|head| SHOWN.contains(head)) else {
                continue;
            };
            out.push(line.to_owned());
            let block = lines.by_ref().take_while(|line| *line != "}");
            if head.starts_with("chain") {
                out.extend(block.map(|rule| format!("   {rule}")));
            } else {
                let elements = block.skip_while(|line| !line.starts_with(ELEMENTS)).collect::<String>();
                let elements = elements.trim_start_matches(ELEMENTS).trim_end_matches('}').split(',').map(str::trim);
                let ours = elements.filter(|element| element.strip_prefix(address).is_some_and(|s| s.starts_with(' ')));
                out.extend(ours.map(|element| format!("   {element}")));
            }
            out.push("}".to_owned());
        }
        out
    }
}

impl Story<'_> {
    /// Shows the part of the table that serves the Service. `rules` is how many there were among many Services.
    pub(super) fn listing(&mut self, services: usize, rules: usize) -> Result<()> {
        let listing = ListingText::of(&self.world.node)?;
        self.screen.heading("5. In the kernel: a Service is some elements, never a rule");
        self.screen.line(&self.screen.faint(&format!("   {} (what serves 10.96.0.10)", listing.by)));
        for line in listing.excerpt(&WEB_IPS[0].to_string()) {
            self.screen.line(&format!("   {line}"));
        }
        let now = listing.rules();
        self.screen.line("");
        self.screen.row("what the counter counts", "new connections since this element was last changed");
        let many = thousands(services);
        self.screen.row("rules in this table", &format!("{now} now with 2 Services, {rules} with {many} before"));
        if now != rules {
            self.complain("the number of rules depends on the number of Services".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "table ip portway { # progname portway
\tflags owner,persist

\tmap services {
\t\ttype ipv4_addr . inet_proto . inet_service : verdict
\t\tcounter
\t\telements = { 10.96.0.10 . tcp . 80 counter packets 3 bytes 180 comment \"default/web:http\" : goto pick-3,
\t\t\t     10.96.0.101 . tcp . 80 comment \"default/other:http\" : goto pick-3 }
\t}

\tmap affinity {
\t\telements = { 10.96.0.10 . tcp }
\t}

\tchain pick-3 {
\t\tdnat ip to ip daddr map @endpoints
\t}

\tchain prerouting {
\t\ttype nat hook prerouting priority dstnat; policy accept;
\t\tjump dispatch
\t}
}
";

    #[test]
    fn an_excerpt_shows_one_address_and_the_rules_behind_it() {
        let excerpt = ListingText { by: "", text: TEXT.to_owned() }.excerpt("10.96.0.10");
        let expected = [
            "map services {",
            "   10.96.0.10 . tcp . 80 counter packets 3 bytes 180 comment \"default/web:http\" : goto pick-3",
            "}",
            "chain pick-3 {",
            "   dnat ip to ip daddr map @endpoints",
            "}",
        ];
        assert_eq!(excerpt, expected);
    }

    #[test]
    fn hooks_are_no_rules() {
        assert_eq!(ListingText { by: "", text: TEXT.to_owned() }.rules(), 2);
    }
}
