//! The only module with `unsafe`: thin wrappers over libmnl's socket, libnftnl's object builders, socket options, and the C
//! library's heap.
//!
//! A wrapper owns one libnftnl object and gives no pointer away; attributes are copied in by libnftnl. Sizes are checked
//! here where libnftnl does not.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

use nftnl::nftnl_sys as sys;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Room for one structural message. Ours are below 4 KiB; a rule cannot be longer than a 16-bit attribute.
const SCRATCH_LEN: usize = 160 * 1024;

/// A netlink socket of libmnl that can move to another thread.
pub(crate) struct NetlinkSocket(mnl::Socket);

// SAFETY: a `mnl_socket` is a file descriptor and its address on the heap, with no tie to a thread. It is not `Sync`.
unsafe impl Send for NetlinkSocket {}

impl NetlinkSocket {
    /// Opens a socket in the network namespace of this thread. A child process does not get it.
    pub(crate) fn open(bus: mnl::Bus) -> io::Result<Self> {
        let this = Self(mnl::Socket::open(bus)?);
        fcntl(this.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        Ok(this)
    }

    /// Gives it an address of the kernel's choice, and has it hear these multicast groups (a bit each).
    pub(crate) fn bind(&self, groups: u32) -> io::Result<()> {
        self.0.bind(groups, 0)
    }

    /// Its address, once it has one.
    pub(crate) fn port_id(&self) -> u32 {
        self.0.portid()
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: libmnl keeps the descriptor open as long as the socket lives.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

impl fmt::Debug for NetlinkSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NetlinkSocket").field(&self.0.as_raw_fd()).finish()
    }
}

/// Sets an integer option of a socket.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: there is no pointer in the value.
    unsafe { set_bytes(fd, level, name, &value.to_ne_bytes()) }
}

/// `IPT_SO_SET_REPLACE`.
const REPLACE: i32 = 64;
/// `IPT_SO_SET_ADD_COUNTERS`.
const ADD_COUNTERS: i32 = 65;

/// Reads from a table of legacy iptables; `name` is one of `IPT_SO_GET_*`, `value` also tells the kernel what is asked for.
pub(crate) fn read_iptables(fd: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> io::Result<()> {
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, all of them in `value`.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast::<c_void>(), &raw mut len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Replaces a table of legacy iptables. `value` is `struct ipt_replace` of a 64-bit kernel, and entries; `counters` takes
/// packets and bytes of each old entry.
pub(crate) fn replace_iptables(
    fd: BorrowedFd<'_>,
    level: i32,
    value: &mut [u8],
    counters: &mut [u64],
) -> io::Result<()> {
    const NUM_COUNTERS: usize = 84;
    const COUNTERS: usize = 88;
    let number = value.get(NUM_COUNTERS..COUNTERS).and_then(|bytes| bytes.first_chunk());
    let number = number.map_or(0, |bytes| u32::from_ne_bytes(*bytes) as usize);
    let Some(pointer) = value.get_mut(COUNTERS..COUNTERS + 8) else { return Err(io::ErrorKind::InvalidInput.into()) };
    if counters.len() != 2 * number {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    pointer.copy_from_slice(&(counters.as_mut_ptr() as u64).to_ne_bytes());
    // SAFETY: the kernel reads `value`, and writes to the place put into it as many pairs as `value` says: they fit.
    unsafe { set_bytes(fd, level, REPLACE, value) }
}

/// Adds to the counters of a table of legacy iptables. `value` is `struct xt_counters_info`, and counters.
pub(crate) fn add_iptables_counters(fd: BorrowedFd<'_>, level: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `value`, in which there is no pointer.
    unsafe { set_bytes(fd, level, ADD_COUNTERS, value) }
}

/// Sets a socket option.
///
/// # Safety
///
/// Where the option has pointers in its value, what the kernel does with them must be right.
unsafe fn set_bytes(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes, all of them in `value`; the caller answers for pointers.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast::<c_void>(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has all threads allocate from one heap. glibc would give each its own: what the sources allocate, the sync loop frees, and
/// nobody fills the holes. To be called while there is one thread.
pub(crate) fn use_one_heap() {
    // SAFETY: no precondition; an option that glibc does not know is ignored.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives memory that is free back to the system. A first sync needs more than what follows it, and glibc keeps that.
pub(crate) fn give_back_memory() {
    // SAFETY: no precondition; glibc locks its heaps one after the other.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Names are made of our own constants and numbers; a zero byte inside would be a bug, and ends the name.
fn c_string(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

/// libnftnl allocates with plain `malloc`; like Rust's own allocator we do not outlive its failure.
fn allocated<T>(object: *mut T) -> NonNull<T> {
    NonNull::new(object).unwrap_or_else(|| std::process::abort())
}

/// An expression of a rule, or of a set that counts.
pub(crate) struct Expression(NonNull<sys::nftnl_expr>);

impl Expression {
    pub(crate) fn new(name: &CStr) -> Self {
        // SAFETY: the name is zero-terminated; libnftnl looks it up in its list of expressions.
        Self(allocated(unsafe { sys::nftnl_expr_alloc(name.as_ptr()) }))
    }

    pub(crate) fn u8(self, attr: u32, value: u8) -> Self {
        // SAFETY: the object is valid; libnftnl ignores attributes the expression does not have.
        unsafe { sys::nftnl_expr_set_u8(self.0.as_ptr(), attr as u16, value) };
        self
    }

    pub(crate) fn u32(self, attr: u32, value: u32) -> Self {
        // SAFETY: as in `u8`.
        unsafe { sys::nftnl_expr_set_u32(self.0.as_ptr(), attr as u16, value) };
        self
    }

    pub(crate) fn u64(self, attr: u32, value: u64) -> Self {
        // SAFETY: as in `u8`.
        unsafe { sys::nftnl_expr_set_u64(self.0.as_ptr(), attr as u16, value) };
        self
    }

    pub(crate) fn str(self, attr: u32, value: &str) -> Self {
        let value = c_string(value);
        // SAFETY: as in `u8`; the string is zero-terminated and copied.
        unsafe { sys::nftnl_expr_set_str(self.0.as_ptr(), attr as u16, value.as_ptr()) };
        self
    }

    /// At most 64 bytes (NFT_DATA_VALUE_MAXLEN), the room libnftnl has; more is cut.
    pub(crate) fn data(self, attr: u32, value: &[u8]) -> Self {
        let value = &value[..value.len().min(64)];
        // SAFETY: as in `u8`; the bytes are copied, and fit.
        unsafe {
            sys::nftnl_expr_set(self.0.as_ptr(), attr as u16, value.as_ptr().cast::<c_void>(), value.len() as u32);
        }
        self
    }

    fn into_raw(self) -> *mut sys::nftnl_expr {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        raw
    }
}

impl Drop for Expression {
    fn drop(&mut self) {
        // SAFETY: we own the object; when it was given to a rule or set, `into_raw` has forgotten `self`.
        unsafe { sys::nftnl_expr_free(self.0.as_ptr()) };
    }
}

/// A memory for libnftnl to build messages in, aligned as `nlmsghdr` needs it.
pub(crate) struct Scratch(Vec<u64>);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(vec![0; SCRATCH_LEN / 8])
    }
}

/// Head of a message to build.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    /// `NFT_MSG_*`.
    pub(crate) kind: u16,
    /// `NFPROTO_*`.
    pub(crate) family: u8,
    /// `NLM_F_*`, without NLM_F_REQUEST.
    pub(crate) flags: u16,
    /// Sequence number.
    pub(crate) seq: u32,
}

/// Builds one message in the scratch memory and appends it.
fn build(scratch: &mut Scratch, head: Head, out: &mut Vec<u8>, payload: impl FnOnce(*mut libc::nlmsghdr)) {
    let start = scratch.0.as_mut_ptr().cast::<c_char>();
    // SAFETY: the scratch memory is aligned and longer than any message of ours (see SCRATCH_LEN); `build_hdr` writes the
    // 20 bytes of both heads, `payload` appends attributes of an object with short names and at most a few KiB of data.
    let message = unsafe {
        let header = sys::nftnl_nlmsg_build_hdr(start, head.kind, u16::from(head.family), head.flags, head.seq);
        payload(header);
        std::slice::from_raw_parts(start.cast::<u8>(), (*header).nlmsg_len as usize)
    };
    out.extend_from_slice(message);
}

macro_rules! object {
    ($(#[$doc:meta])* $name:ident, $raw:ident, $alloc:ident, $free:ident, $u32:ident, $str:ident, $build:ident) => {
        $(#[$doc])*
        pub(crate) struct $name(NonNull<sys::$raw>);

        impl $name {
            pub(crate) fn new() -> Self {
                // SAFETY: no precondition.
                Self(allocated(unsafe { sys::$alloc() }))
            }

            pub(crate) fn u32(self, attr: u32, value: u32) -> Self {
                // SAFETY: the object is valid, and the attribute is one of its 32-bit ones (callers use named constants).
                unsafe { sys::$u32(self.0.as_ptr(), attr as u16, value) };
                self
            }

            pub(crate) fn str(self, attr: u32, value: &str) -> Self {
                let value = c_string(value);
                // SAFETY: the object is valid, the string zero-terminated and copied.
                unsafe { sys::$str(self.0.as_ptr(), attr as u16, value.as_ptr()) };
                self
            }

            /// Appends the message.
            pub(crate) fn build(&self, scratch: &mut Scratch, head: Head, out: &mut Vec<u8>) {
                // SAFETY: the header is the one `build` just made, with room behind it.
                build(scratch, head, out, |header| unsafe { sys::$build(header, self.0.as_ptr()) });
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: we own the object and everything added to it.
                unsafe { sys::$free(self.0.as_ptr()) };
            }
        }
    };
}

object!(
    /// A table.
    Table,
    nftnl_table,
    nftnl_table_alloc,
    nftnl_table_free,
    nftnl_table_set_u32,
    nftnl_table_set_str,
    nftnl_table_nlmsg_build_payload
);
object!(
    /// A chain.
    Chain,
    nftnl_chain,
    nftnl_chain_alloc,
    nftnl_chain_free,
    nftnl_chain_set_u32,
    nftnl_chain_set_str,
    nftnl_chain_nlmsg_build_payload
);
object!(
    /// A rule.
    Rule,
    nftnl_rule,
    nftnl_rule_alloc,
    nftnl_rule_free,
    nftnl_rule_set_u32,
    nftnl_rule_set_str,
    nftnl_rule_nlmsg_build_payload
);
object!(
    /// A set or map, without its elements.
    Set,
    nftnl_set,
    nftnl_set_alloc,
    nftnl_set_free,
    nftnl_set_set_u32,
    nftnl_set_set_str,
    nftnl_set_nlmsg_build_payload
);

impl Chain {
    /// A signed attribute: the priority.
    pub(crate) fn i32(self, attr: u32, value: i32) -> Self {
        // SAFETY: as in `u32`.
        unsafe { sys::nftnl_chain_set_s32(self.0.as_ptr(), attr as u16, value) };
        self
    }
}

impl Rule {
    /// Appends an expression, which then belongs to the rule.
    pub(crate) fn add(&mut self, expression: Expression) {
        // SAFETY: both objects are valid; the rule frees the expression.
        unsafe { sys::nftnl_rule_add_expr(self.0.as_ptr(), expression.into_raw()) };
    }
}

impl Set {
    /// A 64-bit attribute: the timeout.
    pub(crate) fn u64(self, attr: u32, value: u64) -> Self {
        // SAFETY: the object is valid; the value is copied.
        unsafe { sys::nftnl_set_set_u64(self.0.as_ptr(), attr as u16, value) };
        self
    }

    /// The lengths of a concatenated key's fields. libnftnl has room for 16.
    pub(crate) fn concat_lens(self, lens: &[u8]) -> Self {
        assert!(lens.len() <= 16, "a key of {} fields", lens.len());
        self.data(sys::NFTNL_SET_DESC_CONCAT, lens)
    }

    /// User data: what `nft` stores for its listings.
    pub(crate) fn userdata(self, bytes: &[u8]) -> Self {
        self.data(sys::NFTNL_SET_USERDATA, bytes)
    }

    fn data(self, attr: u32, bytes: &[u8]) -> Self {
        // SAFETY: the object is valid; the bytes are copied, and both attributes take any length up to their room.
        unsafe {
            sys::nftnl_set_set_data(self.0.as_ptr(), attr as u16, bytes.as_ptr().cast::<c_void>(), bytes.len() as u32);
        }
        self
    }

    /// Adds an expression that every element carries; it then belongs to the set.
    pub(crate) fn add(self, expression: Expression) -> Self {
        // SAFETY: both objects are valid; the set frees the expression.
        unsafe { sys::nftnl_set_add_expr(self.0.as_ptr(), expression.into_raw()) };
        self
    }
}
