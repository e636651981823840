package federation

// The codes of drains: TW-63xx.
const (
	CodeDrainRegion Code = "TW-6301"
	CodeDrainNone   Code = "TW-6302"
	CodeDrainStays  Code = "TW-6303"
	CodeDrainSlow   Code = "TW-6304"
)

// failoverCodes are the diagnoses of planned failovers.
var failoverCodes = []CodeHelp{
	{CodeDrainRegion, "The region to drain is not known",
		"A drain names this region, as \"local\" or by its name, or a peer. \"tradewind peer list\" shows the peers."},
	{CodeDrainNone, "The region is not drained",
		"There is nothing to bring back: no drain of that region is in force here. A drain counts in the region where it was made; " +
			"\"tradewind failover show\" lists those of this region."},
	{CodeDrainStays, "Some calls stay in the region",
		"A drain is a last resort and costs no call: what no other region can serve or may be asked for, and what callers send to that region " +
			"by name (\"service@region\"), still goes there. Give the service a second region (an export there, an intention here, a place in " +
			"the resolver's failover order), or let the callers name the service without the region. To cut it off all the same, deny it by " +
			"an intention."},
	{CodeDrainSlow, "Requests still go to the drained region",
		"The drain is in force, and yet requests that could go elsewhere went to the region in the last second. Requests under way are " +
			"finished first, and they count when they are answered: long ones are the usual cause. Wait, or see who still calls with " +
			"\"tradewind failover show\"."},
}
