package federation

import (
	"fmt"
	"net/netip"
)

// refusedNetworks are the networks that nothing a catalog says can make a gateway dial. A gateway that dialled them would
// lend its own standing on the host's network, and often the cloud credentials of the host, to whoever can name an instance.
var refusedNetworks = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local, where clouds serve credentials to the host"}, // RFC 3927; AWS, GCP, Azure metadata
	{netip.MustParsePrefix("fe80::/10"), "link-local"},                                                  // RFC 4291
	{netip.MustParsePrefix("fd00:ec2::/32"), "the AWS metadata and host services"},                      // fd00:ec2::254, ::23, ::253
	{netip.MustParsePrefix("fd20:ce::254/128"), "the Google Cloud metadata service"},
	{netip.MustParsePrefix("168.63.129.16/32"), "the Azure host services"},
	{netip.MustParsePrefix("100.100.100.200/32"), "the Alibaba Cloud metadata service"},
	{netip.MustParsePrefix("192.0.0.192/32"), "the Oracle Cloud metadata service"},
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified, which means this very host"}, // RFC 1122
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "the broadcast address"},
}

// Prefixes whose addresses carry an IPv4 address that a translator on the way may turn them into.
var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052: the last 4 octets
	sixToFour = netip.MustParsePrefix("2002::/16")       // RFC 3056: octets 2-5
	v4Compat  = netip.MustParsePrefix("::/96")           // RFC 4291, deprecated: the last 4 octets
	v4Trans   = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765: the last 4 octets
)

// CheckAddress returns a *Diagnostic that says why addr must never be dialled on behalf of a catalog, or nil. It is applied
// where an instance is accepted and, because names and translators can hide an address, again where a socket is connected.
func CheckAddress(addr netip.Addr) error {
	refuse := func(what string) error {
		return &Diagnostic{Code: CodeAddressRefused, What: fmt.Sprintf("address %v is refused", addr), Why: "it is " + what,
			Fix: "give the instance the unicast address that it listens on"}
	}
	if !addr.IsValid() {
		return refuse("not a valid IP address")
	}
	plain := addr.Unmap().WithZone("")
	if plain.IsUnspecified() {
		return refuse("unspecified, which means this very host")
	}
	for _, candidate := range [2]netip.Addr{plain, embedded(plain)} {
		for _, n := range refusedNetworks {
			if n.prefix.Contains(candidate) {
				return refuse(n.what)
			}
		}
	}
	return nil
}

// embedded returns the IPv4 address inside a translated IPv6 address, or the invalid address.
func embedded(addr netip.Addr) netip.Addr {
	if addr.Is4() || addr == netip.IPv6Loopback() {
		return netip.Addr{}
	}
	b := addr.As16()
	switch {
	case nat64.Contains(addr), v4Compat.Contains(addr), v4Trans.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return netip.Addr{}
}
