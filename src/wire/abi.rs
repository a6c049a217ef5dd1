//! Numbers of the kernel's nf_tables interface (linux/netfilter/nf_tables.h and neighbours) that we use.

/// Message types, without the subsystem.
pub(crate) mod msg {
    pub(crate) const NEWTABLE: u16 = 0;
    pub(crate) const GETTABLE: u16 = 1;
    pub(crate) const DELTABLE: u16 = 2;
    pub(crate) const NEWCHAIN: u16 = 3;
    pub(crate) const GETCHAIN: u16 = 4;
    pub(crate) const DELCHAIN: u16 = 5;
    pub(crate) const NEWRULE: u16 = 6;
    pub(crate) const GETRULE: u16 = 7;
    pub(crate) const DELRULE: u16 = 8;
    pub(crate) const NEWSET: u16 = 9;
    pub(crate) const GETSET: u16 = 10;
    pub(crate) const DELSET: u16 = 11;
    pub(crate) const NEWSETELEM: u16 = 12;
    pub(crate) const GETSETELEM: u16 = 13;
    pub(crate) const DELSETELEM: u16 = 14;
    pub(crate) const NEWGEN: u16 = 15;
    pub(crate) const GETGEN: u16 = 16;
    pub(crate) const NEWOBJ: u16 = 18;
    pub(crate) const GETOBJ: u16 = 19;
    pub(crate) const DELOBJ: u16 = 20;
    pub(crate) const NEWFLOWTABLE: u16 = 22;
    pub(crate) const GETFLOWTABLE: u16 = 23;
    pub(crate) const DELFLOWTABLE: u16 = 24;
    // Linux 6.3, as those that follow.
    pub(crate) const DESTROYCHAIN: u16 = 27;
    pub(crate) const DESTROYRULE: u16 = 28;
    pub(crate) const DESTROYSET: u16 = 29;
    pub(crate) const DESTROYSETELEM: u16 = 30;
    pub(crate) const DESTROYOBJ: u16 = 31;
    pub(crate) const DESTROYFLOWTABLE: u16 = 32;
}

/// `NFNL_SUBSYS_NFTABLES`, in the high byte of a message type.
pub(crate) const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`.
pub(crate) const BATCH_BEGIN: u16 = 0x10;
/// `NFNL_MSG_BATCH_END`.
pub(crate) const BATCH_END: u16 = 0x11;

/// `NLMSGERR_ATTR_MSG`.
pub(crate) const ERROR_MESSAGE: u16 = 1;
/// `NLMSGERR_ATTR_OFFS`.
pub(crate) const ERROR_OFFSET: u16 = 2;

/// `NFTA_LIST_ELEM`.
pub(crate) const LIST_ELEM: u16 = 1;
/// `NFTA_DATA_VALUE`.
pub(crate) const DATA_VALUE: u16 = 1;
/// `NFTA_DATA_VERDICT`.
pub(crate) const DATA_VERDICT: u16 = 2;
/// `NFTA_VERDICT_CODE`.
pub(crate) const VERDICT_CODE: u16 = 1;
/// `NFTA_VERDICT_CHAIN`.
pub(crate) const VERDICT_CHAIN: u16 = 2;
/// `NFTA_EXPR_NAME`.
pub(crate) const EXPR_NAME: u16 = 1;
/// `NFTA_EXPR_DATA`.
pub(crate) const EXPR_DATA: u16 = 2;
/// `NFTA_IMMEDIATE_DATA`.
pub(crate) const IMMEDIATE_DATA: u16 = 2;
/// `NFTA_COUNTER_PACKETS`.
pub(crate) const COUNTER_PACKETS: u16 = 2;
/// `NFTA_GEN_ID`.
pub(crate) const GEN_ID: u16 = 1;
/// `NFTA_GEN_PROC_PID`.
pub(crate) const GEN_PROC_PID: u16 = 2;
/// `NFTA_GEN_PROC_NAME`.
pub(crate) const GEN_PROC_NAME: u16 = 3;

/// `NFTA_TABLE_*`.
pub(crate) mod table {
    /// Whatever an object is, its first attribute is the name of its table.
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
    pub(crate) const USE: u16 = 3;
    pub(crate) const HANDLE: u16 = 4;
    pub(crate) const OWNER: u16 = 7;
    /// `NFT_TABLE_F_OWNER`: only the socket that created the table can change it.
    pub(crate) const F_OWNER: u32 = 2;
    /// `NFT_TABLE_F_PERSIST`: the table outlives its owner.
    pub(crate) const F_PERSIST: u32 = 4;
}

/// `NFTA_CHAIN_*`.
pub(crate) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
    pub(crate) const HOOK_NUM: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
    pub(crate) const HOOK_DEV: u16 = 3;
    /// `NF_ACCEPT`.
    pub(crate) const POLICY_ACCEPT: u32 = 1;
}

/// `NFTA_RULE_*`.
pub(crate) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const HANDLE: u16 = 3;
    pub(crate) const EXPRESSIONS: u16 = 4;
}

/// `NFTA_SET_*`.
pub(crate) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LEN: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const DATA_LEN: u16 = 7;
    pub(crate) const DESC: u16 = 9;
    pub(crate) const EXPR: u16 = 17;
    /// Milliseconds, 64 bits.
    pub(crate) const TIMEOUT: u16 = 11;
    /// Linux 6.17: the number of elements.
    pub(crate) const COUNT: u16 = 20;
    /// `NFTA_SET_DESC_SIZE`.
    pub(crate) const DESC_SIZE: u16 = 1;
    /// `NFTA_SET_DESC_CONCAT`: a list of fields.
    pub(crate) const DESC_CONCAT: u16 = 2;
    /// `NFTA_SET_FIELD_LEN`.
    pub(crate) const FIELD_LEN: u16 = 1;

    pub(crate) const F_ANONYMOUS: u32 = 0x1;
    pub(crate) const F_INTERVAL: u32 = 0x4;
    pub(crate) const F_MAP: u32 = 0x8;
    pub(crate) const F_TIMEOUT: u32 = 0x10;
    pub(crate) const F_EVAL: u32 = 0x20;
    pub(crate) const F_CONCAT: u32 = 0x80;

    /// `NFT_DATA_VERDICT` as a data type.
    pub(crate) const VERDICT_TYPE: u32 = 0xffff_ff00;
}

/// `NFTA_OBJ_*`.
pub(crate) mod object {
    pub(crate) const NAME: u16 = 2;
    pub(crate) const TYPE: u16 = 3;
}

/// `NFTA_FLOWTABLE_*`.
pub(crate) mod flowtable {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const HOOK: u16 = 3;
    pub(crate) const FLAGS: u16 = 7;
    /// `NFTA_FLOWTABLE_HOOK_*`.
    pub(crate) const HOOK_NUM: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
    pub(crate) const HOOK_DEVICES: u16 = 3;
    /// `NFTA_DEVICE_NAME`.
    pub(crate) const DEVICE_NAME: u16 = 1;
}

/// `NFTA_SET_ELEM_*` and `NFTA_SET_ELEM_LIST_*`.
pub(crate) mod elem {
    pub(crate) const LIST_TABLE: u16 = 1;
    pub(crate) const LIST_SET: u16 = 2;
    pub(crate) const LIST_ELEMENTS: u16 = 3;

    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const USERDATA: u16 = 6;
    pub(crate) const EXPR: u16 = 7;
    pub(crate) const KEY_END: u16 = 10;

    /// `NFT_SET_ELEM_INTERVAL_END`: the first key behind a range.
    pub(crate) const F_INTERVAL_END: u32 = 1;
    /// `NFTNL_UDATA_SET_ELEM_COMMENT`.
    pub(crate) const UDATA_COMMENT: u8 = 0;
    /// `NFTNL_UDATA_SET_ELEM_FLAGS`.
    pub(crate) const UDATA_FLAGS: u8 = 1;
    /// `NFTNL_SET_ELEM_F_INTERVAL_OPEN`: the range goes on to the last key there is.
    pub(crate) const UDATA_F_OPEN: u32 = 1;
}

/// Verdict codes.
pub(crate) mod verdict {
    pub(crate) const DROP: u32 = 0;
    /// `NFT_JUMP` (-3).
    pub(crate) const JUMP: u32 = -3_i32 as u32;
    /// `NFT_GOTO` (-4).
    pub(crate) const GOTO: u32 = -4_i32 as u32;
    /// `NFT_RETURN` (-5).
    pub(crate) const RETURN: u32 = -5_i32 as u32;
}

/// Values inside expressions.
pub(crate) mod expr {
    /// `NFT_PAYLOAD_NETWORK_HEADER`.
    pub(crate) const NETWORK_HEADER: u32 = 1;
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`.
    pub(crate) const TRANSPORT_HEADER: u32 = 2;
    /// `NFT_META_PROTOCOL`.
    pub(crate) const META_PROTOCOL: u32 = 1;
    /// `NFT_META_PKTTYPE`.
    pub(crate) const META_PKTTYPE: u32 = 19;
    /// `NFT_META_PRIORITY`.
    pub(crate) const META_PRIORITY: u32 = 2;
    /// `NFT_META_IIF`.
    pub(crate) const META_IIF: u32 = 4;
    /// `NFT_META_IIFNAME`.
    pub(crate) const META_IIFNAME: u32 = 6;
    /// `NFT_META_L4PROTO`.
    pub(crate) const META_L4PROTO: u32 = 16;
    /// `NFT_CT_STATUS`.
    pub(crate) const CT_STATUS: u32 = 2;
    /// `NFT_CT_PROTO_SRC`.
    pub(crate) const CT_PROTO_SRC: u32 = 11;
    /// `NFT_CT_PROTO_DST`.
    pub(crate) const CT_PROTO_DST: u32 = 12;
    /// `NFT_CT_PKTS`.
    pub(crate) const CT_PACKETS: u32 = 14;
    /// `NFT_CT_SRC_IP`.
    pub(crate) const CT_SRC_IP: u32 = 19;
    /// `NFT_CT_SRC_IP6`.
    pub(crate) const CT_SRC_IP6: u32 = 21;
    /// `NFT_CT_DST_IP`.
    pub(crate) const CT_DST_IP: u32 = 20;
    /// `NFT_CT_DST_IP6`.
    pub(crate) const CT_DST_IP6: u32 = 22;
    /// `IP_CT_DIR_ORIGINAL`.
    pub(crate) const DIR_ORIGINAL: u8 = 0;
    /// `IP_CT_DIR_REPLY`.
    pub(crate) const DIR_REPLY: u8 = 1;
    /// `NFT_FIB_RESULT_OIF`.
    pub(crate) const FIB_OIF: u32 = 1;
    /// `NFT_FIB_RESULT_ADDRTYPE`.
    pub(crate) const FIB_ADDRTYPE: u32 = 3;
    /// `NFTA_FIB_F_SADDR`.
    pub(crate) const FIB_SADDR: u32 = 1;
    /// `NFTA_FIB_F_DADDR`.
    pub(crate) const FIB_DADDR: u32 = 2;
    /// `NFT_NG_RANDOM`.
    pub(crate) const NG_RANDOM: u32 = 1;
    /// `NFT_HASH_JENKINS`.
    pub(crate) const HASH_JENKINS: u32 = 0;
    /// `NFT_CMP_EQ`.
    pub(crate) const CMP_EQ: u32 = 0;
    /// `NFT_CMP_NEQ`.
    pub(crate) const CMP_NEQ: u32 = 1;
    /// `NFT_CMP_GT`.
    pub(crate) const CMP_GT: u32 = 4;
    /// `NFT_BYTEORDER_HTON`.
    pub(crate) const BYTEORDER_HTON: u32 = 1;
    /// `NFT_LOOKUP_F_INV`.
    pub(crate) const LOOKUP_INVERTED: u32 = 1;
    /// `NFT_REG_VERDICT`.
    pub(crate) const REG_VERDICT: u32 = 0;
    /// `NFT_NAT_DNAT`.
    pub(crate) const NAT_DNAT: u32 = 1;
    /// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
    pub(crate) const NAT_FULLY_RANDOM: u32 = 1 << 4;
    /// `NFT_REJECT_ICMP_UNREACH`.
    pub(crate) const REJECT_UNREACH: u32 = 0;
    /// `NFT_REJECT_TCP_RST`.
    pub(crate) const REJECT_TCP_RST: u32 = 1;
    /// `ICMP_PORT_UNREACH`.
    pub(crate) const ICMP_PORT_UNREACH: u8 = 3;
    /// `ICMPV6_PORT_UNREACH`.
    pub(crate) const ICMPV6_PORT_UNREACH: u8 = 4;
    /// `NFT_DYNSET_OP_UPDATE`.
    pub(crate) const DYNSET_UPDATE: u32 = 1;
}
