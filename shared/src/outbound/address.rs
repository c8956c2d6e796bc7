//! Decides which addresses may receive deliveries.
//!
//! # Guarantees
//!
//! - Unless the operator allows it, no request goes to an address outside the public internet. This
//!   includes IPv6 forms that stand for such an address
//!   (`private_addresses_of_any_form_are_not_public`).
//! - Metadata services of clouds stay refused under `true` and under networks that contain them.
//!   Only an entry that is exactly their address permits them, since they hand out credentials
//!   (`cloud_services_open_only_by_their_own_address`).
//!
//! The networks are IANA's special-purpose address registries (RFC 6890 and its updates).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// `WEBHOOK_ALLOW_PRIVATE`: addresses that are allowed beside public ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowPrivate {
    /// No other addresses.
    #[default]
    Nothing,
    /// The addresses in these networks.
    Networks(Vec<IpNet>),
    /// All addresses except cloud services, see [`is_cloud_service`].
    Everything,
}

/// Error for a text that is neither a boolean nor a list of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be true, false or a list of networks such as 10.0.0.0/8,fd00::/8")]
pub struct AllowPrivateError;

impl FromStr for AllowPrivate {
    type Err = AllowPrivateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "" | "false" | "0" => Ok(Self::Nothing),
            "true" | "1" => Ok(Self::Everything),
            list => list
                .split(',')
                .map(|one| network(one.trim()))
                .collect::<Option<Vec<_>>>()
                .map(Self::Networks)
                .ok_or(AllowPrivateError),
        }
    }
}

/// Parses a network, or a single address.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl AllowPrivate {
    /// Returns true if requests may go to `address`.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        let listed: &[IpNet] = if let Self::Networks(networks) = self { networks } else { &[] };
        let plain = address.to_canonical();
        let mut listed = listed.iter().filter(|network| network.contains(&plain));
        if is_cloud_service(address) {
            return listed.any(is_one_address);
        }
        *self == Self::Everything || is_public(address) || listed.next().is_some()
    }
}

/// Returns true if `network` has one address. Such an entry permits a cloud service there.
fn is_one_address(network: &IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

/// Returns true if `address` is, or stands for, a metadata or platform service of a cloud.
///
/// These are all link-local addresses, and further ones that providers document.
#[must_use]
pub fn is_cloud_service(address: IpAddr) -> bool {
    let v4 =
        |address: &Ipv4Addr| CLOUD_SERVICES_V4.iter().any(|services| services.contains(address));
    match address {
        IpAddr::V4(address) => v4(&address),
        IpAddr::V6(address) => {
            CLOUD_SERVICES_V6.iter().any(|services| services.contains(&address))
                || embedded(address).iter().flatten().any(v4)
        }
    }
}

/// Returns true if `address` is public, and stands for no address that is not.
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

/// IPv4 networks that are not public, by RFC 6890 and its updates.
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
/// Metadata and platform services of clouds, from the providers' documentation:
///
/// - 169.254.169.254: metadata of AWS, Google Cloud, Azure, Oracle, DigitalOcean, Hetzner and
///   others.
/// - 169.254.170.2 and .23: credentials of AWS containers. 169.254.0.23: metadata of Tencent.
///   169.254.42.42: metadata of Scaleway.
/// - 100.100.100.200: metadata of Alibaba. 100.96.0.96: metadata of Volcano Engine.
/// - 168.63.129.16: Azure's virtual address of the host. 192.0.0.192: metadata of Oracle Classic.
/// - 161.26.0.0/16 and 166.8.0.0/14: service endpoints of IBM Cloud.
const CLOUD_SERVICES_V4: [Ipv4Net; 7] = [
    v4(169, 254, 0, 0, 16),
    v4(100, 96, 0, 96, 32),
    v4(100, 100, 100, 200, 32),
    v4(161, 26, 0, 0, 16),
    v4(166, 8, 0, 0, 14),
    v4(168, 63, 129, 16, 32),
    v4(192, 0, 0, 192, 32),
];
/// IPv6 services as in [`CLOUD_SERVICES_V4`]: link-local, AWS, Google Cloud, Oracle, Alibaba,
/// Scaleway, Akamai (Linode).
const CLOUD_SERVICES_V6: [Ipv6Net; 7] = [
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
    v6([0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200], 128),
    v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
    v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1], 128),
];

const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);
/// Networks in global unicast that are not public: protocol assignments with Teredo, documentation.
const SPECIAL_V6: [Ipv6Net; 3] = [
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

fn public_v4(address: Ipv4Addr) -> bool {
    let is_in = |networks: &[Ipv4Net]| networks.iter().any(|network| network.contains(&address));
    !is_in(&SPECIAL_V4) && !is_in(&CLOUD_SERVICES_V4)
}

fn public_v6(address: Ipv6Addr) -> bool {
    let global = GLOBAL_UNICAST.contains(&address)
        && !SPECIAL_V6.iter().any(|network| network.contains(&address));
    let translated = address.to_ipv4_mapped().is_some() || NAT64.contains(&address);
    (global || translated) && embedded(address).into_iter().flatten().all(public_v4)
}

/// IPv4 addresses that `address` stands for or reaches.
fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // Mapped (RFC 4291), translated (RFC 2765), and the deprecated compatible form.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            [of(high, low), None]
        }
        // NAT64 (RFC 6052), and its local prefix (RFC 8215) of 96 and of 48 bits.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [of(high, low), None],
        [0x64, 0xff9b, 1, first, second, third, high, low] => {
            [of(high, low), of(first, second << 8 | third >> 8)]
        }
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => [of(high, low), None],
        // Teredo (RFC 4380): the server, and the client's address with inverted bits.
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            [of(server_high, server_low), of(!high, !low)]
        }
        // ISATAP (RFC 5214).
        [.., 0 | 0x200, 0x5efe, high, low] => [of(high, low), None],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn public_addresses_are_permitted() {
        for address in
            ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn private_addresses_of_any_form_are_not_public() {
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
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "2607:f8b0::5efe:10.0.0.1",
            "2607:f8b0::200:5efe:127.0.0.1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    /// Services of clouds, each once. Some are IPv6 forms of 169.254.169.254, 168.63.129.16 and
    /// 100.100.100.200.
    const SERVICES: [&str; 29] = [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.0.23",
        "169.254.42.42",
        "100.96.0.96",
        "100.100.100.200",
        "161.26.0.10",
        "166.9.48.1",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:42::42",
        "fd00:c1::a9fe:a9fe",
        "fd00:100::100:200",
        "fd00:a9fe:a9fe::1",
        "fe80::a9fe:a9fe",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "::ffff:0:168.63.129.16",
        "64:ff9b::168.63.129.16",
        "64:ff9b:1::100.100.100.200",
        "64:ff9b:1:a9fe:a9:fe00::",
        "2002:a9fe:a9fe::1",
        "2001:0:a83f:8110::1",
        "2001:0:4136:e378:8000:63bf:5601:5601",
        "2607:f8b0::5efe:168.63.129.16",
    ];

    #[test]
    fn cloud_services_open_only_by_their_own_address() {
        let wide =
            "0.0.0.0/0,::/0,10.0.0.0/8,100.64.0.0/10,168.0.0.0/8,fd00::/8,64:ff9b::/32,2000::/3";
        let narrow = "169.254.0.0/16,169.254.128.0/17,169.254.169.0/24,169.254.169.254/31,\
                      169.254.170.2/31,169.254.170.22/31,169.254.0.22/31,169.254.42.42/31,\
                      100.96.0.96/31,100.100.100.200/31,161.26.0.0/16,166.8.0.0/14,\
                      168.63.129.16/31,192.0.0.192/31,fd00:ec2::/32,fe80::/10,fd20:ce::254/127,\
                      fd00:c1::/64,fd00:100::/32,fd00:42::42/127,fd00:a9fe:a9fe::/48";
        for allowed in ["false", "true", wide, narrow] {
            let allowed: AllowPrivate = allowed.parse().unwrap();
            for address in SERVICES {
                assert!(!allowed.permits(address.parse().unwrap()), "{address} by {allowed:?}");
            }
        }
        for (named, address) in [
            ("169.254.169.254", "169.254.169.254"),
            ("169.254.169.254/32", "::ffff:169.254.169.254"),
            ("169.254.170.2", "169.254.170.2"),
            ("168.63.129.16/32", "168.63.129.16"),
            ("fd00:ec2::254", "fd00:ec2::254"),
        ] {
            let allowed: AllowPrivate = named.parse().unwrap();
            assert!(allowed.permits(address.parse().unwrap()), "{address} by {named}");
            assert!(!allowed.permits("100.100.100.200".parse().unwrap()), "{named}");
        }
    }

    #[test]
    fn allow_private_true_permits_all_but_cloud_services() {
        let allowed: AllowPrivate = "true".parse().unwrap();
        for address in
            ["10.0.0.1", "127.0.0.1", "::1", "fd12::1", "100.64.0.1", "1.1.1.1", "2606:4700::1111"]
        {
            assert!(allowed.permits(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn allow_private_permits_listed_networks() {
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
            assert_eq!(wrong.parse::<AllowPrivate>(), Err(AllowPrivateError), "{wrong}");
        }
    }
}
