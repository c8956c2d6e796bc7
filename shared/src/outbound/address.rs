//! Which addresses a destination may have.
//!
//! Guarantee: unless the operator allows it, no request leaves for an address that is not one of the public internet: not
//! for this host, its networks, a cloud's metadata service, or an IPv6 form that stands for one of these. What cannot be
//! told is refused. The registries are IANA's of special-purpose addresses (RFC 6890 and its updates).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// `WEBHOOK_ALLOW_PRIVATE`: what is allowed beside public addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowPrivate {
    /// Nothing.
    #[default]
    Nothing,
    /// These networks.
    Networks(Vec<IpNet>),
    /// Everything.
    Everything,
}

/// A text that is neither a switch nor a list of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be true, false or a list of networks such as 10.0.0.0/8,fd00::/8")]
pub struct InvalidNetworks;

impl FromStr for AllowPrivate {
    type Err = InvalidNetworks;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "" | "false" | "0" => Ok(Self::Nothing),
            "true" | "1" => Ok(Self::Everything),
            list => list
                .split(',')
                .map(|one| network(one.trim()))
                .collect::<Option<Vec<_>>>()
                .map(Self::Networks)
                .ok_or(InvalidNetworks),
        }
    }
}

/// A network, or a single address.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl AllowPrivate {
    /// Whether requests may go to `address`.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        match self {
            Self::Everything => true,
            Self::Nothing => is_public(address),
            Self::Networks(networks) => {
                let plain = address.to_canonical();
                is_public(address) || networks.iter().any(|network| network.contains(&plain))
            }
        }
    }
}

/// Whether `address` is one of the public internet, and stands for no other that is not.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => public_v4(address),
        IpAddr::V6(address) => public_v6(address),
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(segments: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// Not public, by RFC 6890 and its updates.
const SPECIAL_V4: [Ipv4Net; 15] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];
/// Alibaba's and Oracle's metadata services have addresses that are public by their looks.
const METADATA: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];

const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);
/// Inside global unicast, and not public: protocol assignments (Teredo among them) and documentation.
const SPECIAL_V6: [Ipv6Net; 3] = [
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

fn public_v4(address: Ipv4Addr) -> bool {
    !SPECIAL_V4.iter().any(|network| network.contains(&address)) && !METADATA.contains(&address)
}

fn public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        public_v4(Ipv4Addr::new(a, b, c, d))
    };
    if let Some(mapped) = address.to_ipv4_mapped() {
        return public_v4(mapped);
    }
    if NAT64.contains(&address) {
        return embedded(segments[6], segments[7]);
    }
    if SIX_TO_FOUR.contains(&address) {
        return embedded(segments[1], segments[2]);
    }
    GLOBAL_UNICAST.contains(&address) && !SPECIAL_V6.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn public_addresses_are_permitted() {
        for address in ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn nothing_inside_is_reached_in_any_form() {
        for address in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.200",
            "169.254.169.254",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn the_operator_may_allow_networks() {
        let allowed: AllowPrivate = "10.0.0.0/8, fd00::/8,192.168.1.7".parse().unwrap();
        for address in ["10.9.9.9", "::ffff:10.9.9.9", "fd12::1", "192.168.1.7", "1.1.1.1"] {
            assert!(allowed.permits(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1", "192.168.1.8", "::1"] {
            assert!(!allowed.permits(address.parse().unwrap()), "{address}");
        }
        assert!("true".parse::<AllowPrivate>().unwrap().permits("127.0.0.1".parse().unwrap()));
        assert!(!"false".parse::<AllowPrivate>().unwrap().permits("127.0.0.1".parse().unwrap()));
        for wrong in ["yes", "10.0.0.0/33", "10.0.0.0/8,", "localhost"] {
            assert_eq!(wrong.parse::<AllowPrivate>(), Err(InvalidNetworks), "{wrong}");
        }
    }
}
