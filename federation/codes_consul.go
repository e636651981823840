package federation

// The diagnoses of writing imports to Consul, in the registry's area.
const (
	CodeConsulSyncFailed Code = "TW-5121"
	CodeConsulSyncDenied Code = "TW-5122"
	CodeConsulSyncHeld   Code = "TW-5123"
)

// consulCodes are the diagnoses of sync_to_consul: TW-512x.
var consulCodes = []CodeHelp{
	{CodeConsulSyncFailed, "Imports could not be written to Consul",
		"The local Consul agent did not answer or refused a write. It is tried again by itself, ever more slowly up to every 30 seconds. If " +
			"the gateway cannot reach the agent for longer than the ttl of sync_to_consul (15 s by default), the agent takes the imports out " +
			"of DNS, and they come back when it can be reached again. Check the agent and the address in the gateway's configuration."},
	{CodeConsulSyncDenied, "The token lacks a permission to write imports to Consul",
		"The rule that is missing is named exactly as it is written in an ACL policy. Each import is a service of its own name, so the token " +
			"needs write permission for these names, or service_prefix \"\" { policy = \"write\" }, and for the service \"tradewind\"."},
	{CodeConsulSyncHeld, "Imports are not shown in Consul because their names are taken",
		"Consul has a service of that name already, or two imports would have one name. Callers in this Consul would reach other clouds and " +
			"their own service by chance, so nothing is written. Rename one of them, set a prefix in sync_to_consul, or merge = true " +
			"when that is wanted."},
}
