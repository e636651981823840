package federation

// CodeJoinLookup is a retry_join that does not find the gateways of a peer.
const CodeJoinLookup Code = "TW-5131"

// joinCodes are the diagnoses of looking up peers' gateways: TW-513x.
var joinCodes = []CodeHelp{
	{CodeJoinLookup, "The gateways of a peer cannot all be looked up",
		"An entry of retry_join in the peer's block of gateway.hcl failed, or found nobody. The addresses known before stay in use, and it is " +
			"tried again by itself, ever more slowly up to every 5 minutes. AWS needs ec2:DescribeInstances, Google Cloud compute.instances.list, " +
			"Azure a Reader role; check too that the tags are those of the peer's gateways, and that they run. At most 8 addresses are used."},
}
