package federation

import (
	"net/netip"
	"testing"
)

func TestAddressesThatAreNeverDialled(t *testing.T) {
	refused := []string{
		"169.254.169.254", "169.254.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::169.254.169.254",
		"::ffff:0:169.254.169.254", "fe80::1", "fe80::1%eth0", "febf::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "168.63.129.16",
		"100.100.100.200", "192.0.0.192", "0.0.0.0", "0.0.0.1", "::", "::ffff:0.0.0.0", "224.0.0.1", "239.255.255.255", "ff02::1",
		"255.255.255.255", "64:ff9b::e000:1",
	}
	for _, s := range refused {
		if err := CheckAddress(netip.MustParseAddr(s)); CodeOf(err) != CodeAddressRefused {
			t.Errorf("%s: got %v, want %s", s, err, CodeAddressRefused)
		}
	}
	if CheckAddress(netip.Addr{}) == nil {
		t.Error("the zero address passes")
	}
	for _, s := range []string{"127.0.0.1", "::1", "10.0.0.1", "192.0.2.1", "2001:db8::1", "fd12:3456::1", "64:ff9b::c000:201", "168.63.129.17"} {
		if err := CheckAddress(netip.MustParseAddr(s)); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}
