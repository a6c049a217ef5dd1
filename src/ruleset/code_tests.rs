use super::*;

/// As `nft --debug=netlink` shows it.
#[test]
fn prefixes_load_whole_bytes_or_are_masked() {
    let code = |net: &str| {
        let net: ipnet::IpNet = net.parse().expect("a network");
        let family = Family::of_net(&net);
        encode_rule(family, &vec![Term::Prefix { field: Field::SourceAddress, negate: false, net }])
    };
    let load = |offset, len| Expr::NetworkHeader { offset, len, to: 0 };
    let compare = |data: &[u8]| Expr::Compare { register: 0, negate: false, data: data.to_vec() };
    let mask = |mask: &[u8]| Expr::Mask { register: 0, mask: mask.to_vec() };
    assert_eq!(code("10.244.0.0/16"), [load(12, 2), compare(&[10, 244])]);
    assert_eq!(code("10.0.0.1/32"), [load(12, 4), compare(&[10, 0, 0, 1])]);
    assert_eq!(code("10.128.0.0/9"), [load(12, 4), mask(&[255, 128, 0, 0]), compare(&[10, 128, 0, 0])]);
    assert_eq!(code("0.0.0.0/0"), [load(12, 4), mask(&[0; 4]), compare(&[0; 4])]);
    assert_eq!(code("fd00::/8"), [load(8, 1), compare(&[0xfd])]);
    assert_eq!(code("::/0"), [load(8, 16), mask(&[0; 16]), compare(&[0; 16])]);
}
