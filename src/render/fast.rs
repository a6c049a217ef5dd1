//! The table `inet portway` as text.

use crate::ruleset::{FAST_CHAIN, FAST_FAMILY, FAST_PRIORITY, FastChange, FastDevices, TABLE_NAME, fast_rule};

/// The whole table, as `nft list table inet portway` shows it.
pub fn fast_table(devices: &FastDevices) -> String {
    format!(
        "table {FAST_FAMILY} {TABLE_NAME} {{\n{}\n\tchain {FAST_CHAIN} {{\n\t\ttype filter hook forward priority {FAST_PRIORITY}; policy \
         accept;\n\t\t{}\n\t}}\n}}\n",
        flowtable(devices),
        fast_rule()
    )
}

fn flowtable(devices: &FastDevices) -> String {
    let names: Vec<&str> = devices.iter().map(|name| &**name).collect();
    let line = if names.is_empty() { String::new() } else { format!("\t\tdevices = {{ {} }}\n", names.join(", ")) };
    format!("\tflowtable {TABLE_NAME} {{\n\t\thook ingress priority filter\n{line}\t}}\n")
}

/// Changes as commands of nft. `is_there`: there is a table already.
pub fn fast_commands(is_there: bool, change: &FastChange) -> Vec<String> {
    let table = format!("{FAST_FAMILY} {TABLE_NAME}");
    let mut out = Vec::new();
    if change.anew {
        out.extend(is_there.then(|| format!("delete table {table}")));
        out.extend([
            format!("add table {table}"),
            format!("add flowtable {table} {TABLE_NAME} {{ hook ingress priority filter ; }}"),
            format!(
                "add chain {table} {FAST_CHAIN} {{ type filter hook forward priority {FAST_PRIORITY} ; policy accept ; }}"
            ),
            format!("add rule {table} {FAST_CHAIN} {}", fast_rule()),
        ]);
    }
    let devices = |verb: &str, names: &[std::sync::Arc<str>]| {
        let one = |name: &std::sync::Arc<str>| {
            format!(
                "{verb} flowtable {table} {TABLE_NAME} {{ hook ingress priority filter ; devices = {{ {name} }} ; }}"
            )
        };
        names.iter().map(one).collect::<Vec<_>>()
    };
    out.extend(devices("delete", &change.gone));
    out.extend(devices("add", &change.added));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::FastFound;

    #[test]
    fn changes_are_commands() {
        let devices: FastDevices = [std::sync::Arc::from("eth0")].into();
        let odd = FastFound { is_there: true, ..FastFound::default() };
        let commands =
            |found: &FastFound, wanted: &FastDevices| fast_commands(found.is_there, &found.change_to(wanted));
        assert_eq!(commands(&FastFound::default(), &devices).len(), 5);
        assert_eq!(commands(&odd, &devices)[0], "delete table inet portway");
        let only = "add flowtable inet portway portway { hook ingress priority filter ; devices = { eth0 } ; }";
        assert_eq!(commands(&FastFound::made(FastDevices::new()), &devices), [only]);
        let gone = only.replace("add", "delete");
        assert_eq!(commands(&FastFound::made(devices.clone()), &FastDevices::new()), [gone]);
        assert!(commands(&FastFound::made(devices.clone()), &devices).is_empty());
    }
}
