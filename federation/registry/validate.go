package registry

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tradewind-mesh/tradewind/federation"
)

// The limits of one instance. They bound what a source can make the gateway, and through exports its peers, hold.
const (
	maxSourceName = 128
	maxInstanceID = 128 // federation.InstanceID
	maxZone       = 63  // federation.Locality
	maxLabels     = 64
	maxLabelKey   = 128
	maxLabelValue = 256
)

// instanceKey returns how in is named, with the default namespace filled in.
func instanceKey(in *federation.Instance) key {
	service := in.Service
	if service.Namespace == "" {
		service.Namespace = federation.DefaultNamespace
	}
	return key{service, in.ID}
}

// normalize returns in with its defaults filled in, or every rule that it breaks, joined.
func normalize(in federation.Instance, region federation.Region) (federation.Instance, error) {
	k := instanceKey(&in)
	in.Service = k.service
	_, err := federation.ParseServiceName(k.service.Namespace + "/" + k.service.Name)
	errs := []error{err, checkText("id", string(in.ID), maxInstanceID), federation.CheckAddress(in.Address.Addr())}
	if in.Address.Port() == 0 {
		errs = append(errs, errors.New("port is 0"))
	}
	in.Address = netip.AddrPortFrom(in.Address.Addr().Unmap(), in.Address.Port())
	if in.Protocol != "" { // an empty one stays empty: it says nothing, so that others of the service may
		_, err := federation.ParseProtocol(string(in.Protocol))
		errs = append(errs, err)
	}
	if in.Locality.Region == "" {
		in.Locality.Region = region
	} else if _, err := federation.ParseRegion(string(in.Locality.Region)); err != nil {
		errs = append(errs, err)
	}
	if in.Locality.Zone != "" {
		errs = append(errs, checkText("zone", in.Locality.Zone, maxZone))
	}
	if in.Weight == 0 {
		in.Weight = federation.DefaultWeight
	}
	if in.Health > federation.HealthDraining {
		errs = append(errs, fmt.Errorf("health %d is unknown", in.Health))
	}
	if len(in.Labels) > maxLabels {
		errs = append(errs, fmt.Errorf("it has %d labels: at most %d are allowed", len(in.Labels), maxLabels))
	} else {
		for k, v := range in.Labels {
			errs = append(errs, checkText("label", k, maxLabelKey))
			if len(v) > maxLabelValue || !utf8.ValidString(v) {
				errs = append(errs, fmt.Errorf("label %q has more than %d octets or is not UTF-8", k, maxLabelValue))
			}
		}
	}
	if len(in.Checks) > federation.MaxChecks {
		errs = append(errs, fmt.Errorf("it has %d checks: at most %d are allowed", len(in.Checks), federation.MaxChecks))
	} else {
		for _, c := range in.Checks {
			errs = append(errs, c.Validate())
		}
	}
	return in, errors.Join(errs...)
}

// instanceError makes a diagnostic of what normalize found.
func instanceError(in *federation.Instance, source federation.SourceName, err error) *federation.Diagnostic {
	return &federation.Diagnostic{
		Code: federation.CodeInstanceRefused,
		What: fmt.Sprintf("instance %s of service %s, which source %s reports, is not valid", quote(string(in.ID)),
			quote(in.Service.String()), quote(string(source))),
		Why: plain(err),
		Fix: "mend it where it is declared; until then its last valid record, if there was one, stays in use",
		Err: err,
	}
}

// plain returns what is wrong in one line. Of a diagnostic only the words are taken: its code and its fix are not the reader's way.
func plain(err error) string {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		var words []string
		for _, e := range all.Unwrap() {
			words = append(words, plain(e))
		}
		return strings.Join(words, "; ")
	}
	if d := (*federation.Diagnostic)(nil); errors.As(err, &d) {
		return d.What + ": " + d.Why
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// quote quotes what somebody else wrote, at most 64 octets of it.
func quote(s string) string {
	if len(s) > 64 {
		return fmt.Sprintf("%q...", s[:64])
	}
	return fmt.Sprintf("%q", s)
}

// checkText returns an error unless s has 1 to most octets, all printable.
func checkText(what, s string, most int) error {
	switch {
	case s == "":
		return fmt.Errorf("%s is empty", what)
	case len(s) > most:
		return fmt.Errorf("%s %s has %d octets: at most %d are allowed", what, quote(s), len(s), most)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%s %s has unprintable characters", what, quote(s))
	}
	return nil
}

// sameInstance reports whether a and b say the same.
func sameInstance(a, b *federation.Instance) bool { return a.Health == b.Health && sameButHealth(a, b) }

// sameButHealth reports whether a and b say the same of all but health.
func sameButHealth(a, b *federation.Instance) bool {
	return a.ID == b.ID && a.Service == b.Service && a.Address == b.Address && a.Protocol == b.Protocol && a.Locality == b.Locality &&
		a.Weight == b.Weight && maps.Equal(a.Labels, b.Labels) && federation.SameChecks(a.Checks, b.Checks)
}
