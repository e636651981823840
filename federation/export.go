package federation

// Detail is how much of an exported service a peer is shown.
type Detail string

const (
	// DetailSummary shows a count of healthy instances for each locality: enough to choose a region, and 100 times smaller.
	DetailSummary Detail = "summary"
	// DetailEndpoints shows each instance by name and health, never by address.
	DetailEndpoints Detail = "endpoints"
)

// ExportedSlot is one line of an exported service: a locality (summary) or an instance (endpoints). Key is stable for as long
// as the thing it stands for, unique within the service, at most 128 octets.
type ExportedSlot struct {
	Key      string
	Locality Locality
	Weight   uint32 // summary: the sum over the instances
	Health   SlotHealth
}

// ExportedService is a service as one peer may see it. Slots are sorted by Key.
type ExportedService struct {
	Name     ServiceName
	Protocol Protocol
	Detail   Detail
	Slots    []ExportedSlot
}

// ExportView is everything one peer may see of this region, sorted by name. It is built from local services only, so that
// what one peer showed us can never be shown to another.
type ExportView struct {
	Origin   Region
	Services []ExportedService
}
