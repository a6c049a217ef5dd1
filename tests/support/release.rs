//! The kernel's version, where what it does depends on that. Distributions may backport it: then more holds than must.

/// Whether the kernel is of this version of Linux or newer.
pub fn is_linux(version: (u32, u32)) -> bool {
    let name = nix::sys::utsname::uname().expect("it has one");
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= version
}
