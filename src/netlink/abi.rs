//! Numbers of the kernel's nf_tables interface (linux/netfilter/nf_tables.h and neighbours) that we use.

/// Message types, without the subsystem.
pub(super) mod msg {
    pub(in crate::netlink) const NEWTABLE: u16 = 0;
    pub(in crate::netlink) const GETTABLE: u16 = 1;
    pub(in crate::netlink) const DELTABLE: u16 = 2;
    pub(in crate::netlink) const NEWCHAIN: u16 = 3;
    pub(in crate::netlink) const GETCHAIN: u16 = 4;
    pub(in crate::netlink) const DELCHAIN: u16 = 5;
    pub(in crate::netlink) const NEWRULE: u16 = 6;
    pub(in crate::netlink) const GETRULE: u16 = 7;
    pub(in crate::netlink) const DELRULE: u16 = 8;
    pub(in crate::netlink) const NEWSET: u16 = 9;
    pub(in crate::netlink) const GETSET: u16 = 10;
    pub(in crate::netlink) const DELSET: u16 = 11;
    pub(in crate::netlink) const NEWSETELEM: u16 = 12;
    pub(in crate::netlink) const GETSETELEM: u16 = 13;
    pub(in crate::netlink) const DELSETELEM: u16 = 14;
    pub(in crate::netlink) const NEWGEN: u16 = 15;
    pub(in crate::netlink) const GETGEN: u16 = 16;
    pub(in crate::netlink) const NEWOBJ: u16 = 18;
    pub(in crate::netlink) const GETOBJ: u16 = 19;
    pub(in crate::netlink) const DELOBJ: u16 = 20;
    pub(in crate::netlink) const NEWFLOWTABLE: u16 = 22;
    pub(in crate::netlink) const GETFLOWTABLE: u16 = 23;
    pub(in crate::netlink) const DELFLOWTABLE: u16 = 24;
    // Linux 6.3, as those that follow.
    pub(in crate::netlink) const DESTROYCHAIN: u16 = 27;
    pub(in crate::netlink) const DESTROYRULE: u16 = 28;
    pub(in crate::netlink) const DESTROYSET: u16 = 29;
    pub(in crate::netlink) const DESTROYSETELEM: u16 = 30;
    pub(in crate::netlink) const DESTROYOBJ: u16 = 31;
    pub(in crate::netlink) const DESTROYFLOWTABLE: u16 = 32;
}

/// `NFNL_SUBSYS_NFTABLES`, in the high byte of a message type.
pub(super) const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`.
pub(super) const BATCH_BEGIN: u16 = 0x10;
/// `NFNL_MSG_BATCH_END`.
pub(super) const BATCH_END: u16 = 0x11;

/// `NLMSGERR_ATTR_MSG`.
pub(super) const ERROR_MESSAGE: u16 = 1;
/// `NLMSGERR_ATTR_OFFS`.
pub(super) const ERROR_OFFSET: u16 = 2;

/// `NFTA_LIST_ELEM`.
pub(super) const LIST_ELEM: u16 = 1;
/// `NFTA_DATA_VALUE`.
pub(super) const DATA_VALUE: u16 = 1;
/// `NFTA_DATA_VERDICT`.
pub(super) const DATA_VERDICT: u16 = 2;
/// `NFTA_VERDICT_CODE`.
pub(super) const VERDICT_CODE: u16 = 1;
/// `NFTA_VERDICT_CHAIN`.
pub(super) const VERDICT_CHAIN: u16 = 2;
/// `NFTA_EXPR_NAME`.
pub(super) const EXPR_NAME: u16 = 1;
/// `NFTA_EXPR_DATA`.
pub(super) const EXPR_DATA: u16 = 2;
/// `NFTA_IMMEDIATE_DATA`.
pub(super) const IMMEDIATE_DATA: u16 = 2;
/// `NFTA_COUNTER_PACKETS`.
pub(super) const COUNTER_PACKETS: u16 = 2;
/// `NFTA_GEN_ID`.
pub(super) const GEN_ID: u16 = 1;
/// `NFTA_GEN_PROC_PID`.
pub(super) const GEN_PROC_PID: u16 = 2;
/// `NFTA_GEN_PROC_NAME`.
pub(super) const GEN_PROC_NAME: u16 = 3;

/// `NFTA_TABLE_*`.
pub(super) mod table {
    /// Whatever an object is, its first attribute is the name of its table.
    pub(in crate::netlink) const NAME: u16 = 1;
    pub(in crate::netlink) const FLAGS: u16 = 2;
    pub(in crate::netlink) const OWNER: u16 = 7;
    /// `NFT_TABLE_F_OWNER`: only the socket that created the table can change it.
    pub(in crate::netlink) const F_OWNER: u32 = 2;
    /// `NFT_TABLE_F_PERSIST`: the table outlives its owner.
    pub(in crate::netlink) const F_PERSIST: u32 = 4;
}

/// `NFTA_CHAIN_*`.
pub(super) mod chain {
    pub(in crate::netlink) const TABLE: u16 = 1;
    pub(in crate::netlink) const NAME: u16 = 3;
    pub(in crate::netlink) const HOOK: u16 = 4;
    pub(in crate::netlink) const POLICY: u16 = 5;
    pub(in crate::netlink) const TYPE: u16 = 7;
    pub(in crate::netlink) const HOOK_NUM: u16 = 1;
    pub(in crate::netlink) const HOOK_PRIORITY: u16 = 2;
    /// `NF_ACCEPT`.
    pub(in crate::netlink) const POLICY_ACCEPT: u32 = 1;
}

/// `NFTA_RULE_*`.
pub(super) mod rule {
    pub(in crate::netlink) const TABLE: u16 = 1;
    pub(in crate::netlink) const CHAIN: u16 = 2;
    pub(in crate::netlink) const HANDLE: u16 = 3;
    pub(in crate::netlink) const EXPRESSIONS: u16 = 4;
}

/// `NFTA_SET_*`.
pub(super) mod set {
    pub(in crate::netlink) const TABLE: u16 = 1;
    pub(in crate::netlink) const NAME: u16 = 2;
    pub(in crate::netlink) const FLAGS: u16 = 3;
    pub(in crate::netlink) const KEY_TYPE: u16 = 4;
    pub(in crate::netlink) const KEY_LEN: u16 = 5;
    pub(in crate::netlink) const DATA_TYPE: u16 = 6;
    pub(in crate::netlink) const DATA_LEN: u16 = 7;
    pub(in crate::netlink) const DESC: u16 = 9;
    pub(in crate::netlink) const EXPR: u16 = 17;
    /// Linux 6.16: the number of elements.
    pub(in crate::netlink) const COUNT: u16 = 20;
    /// `NFTA_SET_DESC_SIZE`.
    pub(in crate::netlink) const DESC_SIZE: u16 = 1;

    pub(in crate::netlink) const F_ANONYMOUS: u32 = 0x1;
    pub(in crate::netlink) const F_INTERVAL: u32 = 0x4;
    pub(in crate::netlink) const F_MAP: u32 = 0x8;
    pub(in crate::netlink) const F_TIMEOUT: u32 = 0x10;
    pub(in crate::netlink) const F_EVAL: u32 = 0x20;
    pub(in crate::netlink) const F_CONCAT: u32 = 0x80;

    /// `NFT_DATA_VERDICT` as a data type.
    pub(in crate::netlink) const VERDICT_TYPE: u32 = 0xffff_ff00;
}

/// `NFTA_OBJ_*`.
pub(super) mod object {
    pub(in crate::netlink) const NAME: u16 = 2;
    pub(in crate::netlink) const TYPE: u16 = 3;
}

/// `NFTA_FLOWTABLE_*`.
pub(super) mod flowtable {
    pub(in crate::netlink) const NAME: u16 = 2;
}

/// `NFTA_SET_ELEM_*` and `NFTA_SET_ELEM_LIST_*`.
pub(super) mod elem {
    pub(in crate::netlink) const LIST_TABLE: u16 = 1;
    pub(in crate::netlink) const LIST_SET: u16 = 2;
    pub(in crate::netlink) const LIST_ELEMENTS: u16 = 3;

    pub(in crate::netlink) const KEY: u16 = 1;
    pub(in crate::netlink) const DATA: u16 = 2;
    pub(in crate::netlink) const FLAGS: u16 = 3;
    pub(in crate::netlink) const USERDATA: u16 = 6;
    pub(in crate::netlink) const EXPR: u16 = 7;
    pub(in crate::netlink) const KEY_END: u16 = 10;

    /// `NFT_SET_ELEM_INTERVAL_END`: the first key behind a range.
    pub(in crate::netlink) const F_INTERVAL_END: u32 = 1;
    /// `NFTNL_UDATA_SET_ELEM_COMMENT`.
    pub(in crate::netlink) const UDATA_COMMENT: u8 = 0;
    /// `NFTNL_UDATA_SET_ELEM_FLAGS`.
    pub(in crate::netlink) const UDATA_FLAGS: u8 = 1;
    /// `NFTNL_SET_ELEM_F_INTERVAL_OPEN`: the range goes on to the last key there is.
    pub(in crate::netlink) const UDATA_F_OPEN: u32 = 1;
}

/// Verdict codes.
pub(super) mod verdict {
    pub(in crate::netlink) const DROP: u32 = 0;
    /// `NFT_JUMP` (-3).
    pub(in crate::netlink) const JUMP: u32 = -3_i32 as u32;
    /// `NFT_GOTO` (-4).
    pub(in crate::netlink) const GOTO: u32 = -4_i32 as u32;
    /// `NFT_RETURN` (-5).
    pub(in crate::netlink) const RETURN: u32 = -5_i32 as u32;
}

/// Values inside expressions.
pub(super) mod expr {
    /// `NFT_PAYLOAD_NETWORK_HEADER`.
    pub(in crate::netlink) const NETWORK_HEADER: u32 = 1;
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`.
    pub(in crate::netlink) const TRANSPORT_HEADER: u32 = 2;
    /// `NFT_META_PRIORITY`.
    pub(in crate::netlink) const META_PRIORITY: u32 = 2;
    /// `NFT_META_IIF`.
    pub(in crate::netlink) const META_IIF: u32 = 4;
    /// `NFT_META_IIFNAME`.
    pub(in crate::netlink) const META_IIFNAME: u32 = 6;
    /// `NFT_META_L4PROTO`.
    pub(in crate::netlink) const META_L4PROTO: u32 = 16;
    /// `NFT_CT_STATUS`.
    pub(in crate::netlink) const CT_STATUS: u32 = 2;
    /// `NFT_CT_PROTO_DST`.
    pub(in crate::netlink) const CT_PROTO_DST: u32 = 12;
    /// `NFT_CT_DST_IP`.
    pub(in crate::netlink) const CT_DST_IP: u32 = 20;
    /// `NFT_CT_DST_IP6`.
    pub(in crate::netlink) const CT_DST_IP6: u32 = 22;
    /// `IP_CT_DIR_ORIGINAL`.
    pub(in crate::netlink) const DIR_ORIGINAL: u8 = 0;
    /// `NFT_FIB_RESULT_ADDRTYPE`.
    pub(in crate::netlink) const FIB_ADDRTYPE: u32 = 3;
    /// `NFTA_FIB_F_SADDR`.
    pub(in crate::netlink) const FIB_SADDR: u32 = 1;
    /// `NFTA_FIB_F_DADDR`.
    pub(in crate::netlink) const FIB_DADDR: u32 = 2;
    /// `NFT_NG_RANDOM`.
    pub(in crate::netlink) const NG_RANDOM: u32 = 1;
    /// `NFT_CMP_EQ`.
    pub(in crate::netlink) const CMP_EQ: u32 = 0;
    /// `NFT_CMP_NEQ`.
    pub(in crate::netlink) const CMP_NEQ: u32 = 1;
    /// `NFT_LOOKUP_F_INV`.
    pub(in crate::netlink) const LOOKUP_INVERTED: u32 = 1;
    /// `NFT_REG_VERDICT`.
    pub(in crate::netlink) const REG_VERDICT: u32 = 0;
    /// `NFT_NAT_DNAT`.
    pub(in crate::netlink) const NAT_DNAT: u32 = 1;
    /// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
    pub(in crate::netlink) const NAT_FULLY_RANDOM: u32 = 1 << 4;
    /// `NFT_REJECT_ICMP_UNREACH`.
    pub(in crate::netlink) const REJECT_UNREACH: u32 = 0;
    /// `ICMP_PORT_UNREACH`.
    pub(in crate::netlink) const ICMP_PORT_UNREACH: u8 = 3;
    /// `ICMPV6_PORT_UNREACH`.
    pub(in crate::netlink) const ICMPV6_PORT_UNREACH: u8 = 4;
    /// `NFT_DYNSET_OP_UPDATE`.
    pub(in crate::netlink) const DYNSET_UPDATE: u32 = 1;
}
