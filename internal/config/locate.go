package config

import (
	"cmp"
	"fmt"
	"unicode"
)

// Location is what gateway.hcl says of where the process runs. What it leaves open is asked of the cloud.
type Location struct {
	Provider string // "aws", "azure", "gcp", or a name of the operator's own
	Region   string // the cloud's: "eu-west-1"; not the region of the mesh
	Zone     string
	ZoneID   string // where it differs from the zone's name
	Instance string
	Lookup   bool // ask the cloud's metadata service
}

type locationBlock struct {
	Provider string `hcl:"provider,optional"`
	Region   string `hcl:"region,optional"`
	Zone     string `hcl:"zone,optional"`
	ZoneID   string `hcl:"zone_id,optional"`
	Instance string `hcl:"instance,optional"`
	Lookup   *bool  `hcl:"lookup,optional"`
}

// Lengths of a location's parts: Azure's IDs of machines are the longest, and a zone is one of a catalog.
const (
	MaxPlace    = 63
	MaxInstance = 1024
)

func (b *builder) location(g *Gateway, l *locationBlock) {
	g.Location = Location{Lookup: true}
	if l == nil {
		return
	}
	g.Location = Location{Provider: l.Provider, Region: l.Region, Zone: l.Zone, ZoneID: l.ZoneID, Instance: l.Instance,
		Lookup: *cmp.Or(l.Lookup, &g.Location.Lookup)}
	for name, text := range map[string]string{"provider": l.Provider, "region": l.Region, "zone": l.Zone, "zone_id": l.ZoneID, "instance": l.Instance} {
		most := MaxPlace
		if name == "instance" {
			most = MaxInstance
		}
		if len(text) > most {
			b.fail("location."+name, fmt.Errorf("it has %d octets: at most %d are allowed", len(text), most))
		}
		for _, r := range text {
			if r > unicode.MaxASCII || !unicode.IsGraphic(r) || r == ' ' {
				b.fail("location."+name, fmt.Errorf("%q is not printable ASCII without spaces", text))
				break
			}
		}
	}
}
