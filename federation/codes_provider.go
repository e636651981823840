package federation

// The diagnoses of providers, in the registry's area.
const (
	CodeProviderFailed      Code = "TW-5101"
	CodeProviderThrottled   Code = "TW-5102"
	CodeProviderDenied      Code = "TW-5103"
	CodeProviderCredentials Code = "TW-5104"
	CodeProviderPartial     Code = "TW-5105"
	CodeProviderHeld        Code = "TW-5106"
	CodeProviderBadItems    Code = "TW-5107"
	CodeProviderOverlap     Code = "TW-5108"
	CodeProviderTooLarge    Code = "TW-5109"
	CodeProviderSnapshot    Code = "TW-5110"
	CodeProviderScopes      Code = "TW-5111"
	CodeProviderWithdrawn   Code = "TW-5112"
	CodeProviderExport      Code = "TW-5113"
	CodeProviderUnknown     Code = "TW-5114"
	CodeProviderExcluded    Code = "TW-5115"
	CodeProviderHost        Code = "TW-5116"
)

// providerCodes are the diagnoses of providers: TW-51xx.
var providerCodes = []CodeHelp{
	{CodeProviderFailed, "A provider's listing failed",
		"Nothing was learnt, so nothing changes: the workloads of the last complete listing stay in use, and are withdrawn only after " +
			"the provider's ttl (1 h by default). The listing is tried again, ever more slowly up to every 5 minutes. Try it by hand: " +
			"tradewind provider test NAME."},
	{CodeProviderThrottled, "A provider's API asks to slow down",
		"The account has used up its quota of requests, by this gateway or by something else that reads the same API. The last complete " +
			"listing stays in use and the next one waits as long as the API asks, at least twice as long as before. If it lasts, raise " +
			"the provider's interval, or list from fewer gateways."},
	{CodeProviderDenied, "The provider's credentials lack a permission",
		"The action is named exactly as the provider names it. Grant it to the identity that the gateway runs as; read actions are all " +
			"that is ever needed. Until then the last complete listing of that scope stays in use. Check: tradewind provider test NAME."},
	{CodeProviderCredentials, "There are no usable credentials for a provider",
		"They are missing, have expired, or are refused. They are looked for again before the next listing. Give the gateway's machine " +
			"or pod an identity (instance profile, service account, managed identity), or check the provider block."},
	{CodeProviderPartial, "A provider's listing is known to miss something",
		"The provider answered but said that a part is missing, such as a zone that did not answer. What was listed is used; nothing is " +
			"removed by such a listing."},
	{CodeProviderHeld, "A listing that shrank suddenly waits for a second one",
		"The listing was complete, but more than half of the workloads of its scope were gone, and at least five. APIs answer so " +
			"for a moment when they are in trouble themselves. What is new or changed is used at once; the removals take effect with the next " +
			"complete listing. To have it at once: tradewind provider sync NAME."},
	{CodeProviderBadItems, "Some workloads of a listing could not be read",
		"They are skipped and the others are used. The last readable record of such a workload, if there was one, stays in use. " +
			"tradewind provider show NAME lists them with the reason."},
	{CodeProviderOverlap, "Workloads of two networks have the same private address",
		"The gateway can reach only one of the networks at that address, and traffic must not reach the other one's workload, so neither is " +
			"used. Say which networks this gateway reaches: discover { networks = [\"vpc-0a1b2c\"] }."},
	{CodeProviderTooLarge, "A provider lists more than it may",
		"The whole listing was refused and the last one stays in use, because a listing that is suddenly huge is more often a lost filter " +
			"than a new workload. Narrow what the provider block lists."},
	{CodeProviderSnapshot, "The saved state of a provider cannot be read or written",
		"The last good listing is kept on disk so that a restart while the API is down loses nothing. A file that cannot be read is set aside " +
			"under its name with .damaged, and the provider begins with its first listing. If it cannot be written, check the disk and the " +
			"permissions of the data directory."},
	{CodeProviderScopes, "It cannot be learnt what a provider has to list",
		"Zones, clusters or namespaces could not be asked for. Those known before are still listed."},
	{CodeProviderWithdrawn, "Workloads were withdrawn because they were not seen for too long",
		"No complete listing of their scope succeeded within the provider's ttl. Mend the reason that is shown with the scope; to " +
			"keep workloads for longer set ttl in the provider block, \"0s\" keeps them until a listing succeeds."},
	{CodeProviderExport, "A service that a workload's tag asks to export is not exported by the provider",
		"An export resource for the service exists and belongs to another owner, which decides. Remove mesh/export from the tags or delete " +
			"the resource."},
	{CodeProviderUnknown, "There is no such provider",
		"The gateway's configuration has no provider block of this name. List what there is: tradewind provider list."},
	{CodeProviderExcluded, "This gateway was built without the provider",
		"The build tag that leaves out this kind was set when the gateway was built. Use a build that has it."},
	{CodeProviderHost, "The host name of a workload cannot be resolved",
		"The provider gives a name and no address, as Cloud Run and Container Apps do, and the resolver of the gateway's host has no answer " +
			"for it. The last address is used for 5 minutes, then the workload counts as failing; at once when the name is known not to exist. " +
			"It is asked for again every 5 seconds."},
}
