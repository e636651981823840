package federation

// The diagnoses of the registry, of its sources and of health checks.
const (
	CodeSourceFailed        Code = "TW-5001"
	CodeSourceOverLimit     Code = "TW-5002"
	CodeInstanceRefused     Code = "TW-5003"
	CodeInstanceConflict    Code = "TW-5004"
	CodeServiceFull         Code = "TW-5005"
	CodeProtocolConflict    Code = "TW-5006"
	CodeSourceName          Code = "TW-5007"
	CodeInstanceUnknown     Code = "TW-5008"
	CodeAddressRefused      Code = "TW-5010"
	CodeCheckRefused        Code = "TW-5011"
	CodeChecksLate          Code = "TW-5012"
	CodeRegistrationOwner   Code = "TW-5020"
	CodeRegistrationUnknown Code = "TW-5021"
	CodeRegistrationStore   Code = "TW-5022"
	CodeRegistrationDamaged Code = "TW-5023"
	CodeRegistrationLoading Code = "TW-5024"
	CodeRegistrationsFull   Code = "TW-5025"
	CodeRegistrationHealth  Code = "TW-5026"
	CodeFileMalformed       Code = "TW-5030"
	CodeFileUnreadable      Code = "TW-5031"
	CodeFileTooLarge        Code = "TW-5032"
	CodeFileEmptyDirectory  Code = "TW-5033"
)

// registryCodes are the diagnoses of the registry and health checks: TW-5xxx.
var registryCodes = []CodeHelp{
	{CodeSourceFailed, "A source of instances failed and is being restarted",
		"The last complete set that the source gave stays in use and its age grows; nothing is withdrawn because of the failure. " +
			"The source is restarted after 1 s, then ever more slowly up to once a minute. The reason says what went wrong: a " +
			"missing permission, an endpoint that does not answer, throttling."},
	{CodeSourceOverLimit, "A source reported more instances than it may",
		"The whole set was refused and the last accepted one stays in use, because a set that is suddenly huge is more often a " +
			"lost filter than a new workload. Narrow the source's filter, or raise its limit in gateway.hcl."},
	{CodeInstanceRefused, "An instance that a source reported is not valid and was skipped",
		"The other instances of the source are used. If the same instance was valid before, its last valid record stays in use. " +
			"The reason names the field; mend it where the instance is declared (a tag, a registration, a file)."},
	{CodeInstanceConflict, "Two sources report the same instance with different data",
		"An instance ID must be unique within its service in the region. The source whose name sorts first is believed; the other " +
			"record is ignored for as long as both exist, so that traffic never flips between them. Give one of the instances " +
			"another ID, or take it out of one source."},
	{CodeServiceFull, "A service has more instances than it may",
		"Instances that came after the limit was reached are not given traffic until others leave. Peers refuse services beyond " +
			"the same limit. Split the service, or put a load balancer in front of part of it."},
	{CodeProtocolConflict, "The instances of a service do not agree about its protocol",
		"The service is carried as tcp, which is right for every protocol but lets no later layer look inside. Declare it: " +
			"service \"NAME\" { protocol = \"http\" }."},
	{CodeSourceName, "The name of a source cannot be used",
		"A source's name has 1 to 128 printable characters and is unique in the gateway. \"resources\" stands for the instances " +
			"written in service resources."},
	{CodeInstanceUnknown, "There is no such instance",
		"No source reports an instance of this ID in this service. List what is known: tradewind instance list."},
	{CodeAddressRefused, "An address is refused because a gateway must never dial it",
		"Link-local, multicast, unspecified and broadcast addresses and the metadata services of clouds are never dialled, neither " +
			"for a check nor for traffic: whoever could name such an instance would reach the gateway's own credentials through " +
			"it. Give the instance the unicast address that it listens on."},
	{CodeCheckRefused, "A check is not valid and counts as failing",
		"The instance is given no traffic until its check is mended. The reason names the field."},
	{CodeChecksLate, "Health checks are made later than they should be",
		"A gateway makes 256 attempts at once at most. Each one that gets no answer takes as long as its timeout, so many instances that " +
			"hang hold up the checks of the others, and what dies is noticed late. Make the interval of the checks longer, or their " +
			"timeout shorter; take instances that are gone out of their source."},
	{CodeRegistrationOwner, "The registration belongs to another owner",
		"The instance was registered with an owner token, and this call came with another one or none. Only who registered an " +
			"instance may change it. If the token is lost, an administrator can remove the registration with --force."},
	{CodeRegistrationUnknown, "There is no such registration",
		"No instance of this ID is registered through the API. It may have been deregistered, or belong to another source " +
			"(tradewind instance list shows which). Register it again before sending heartbeats."},
	{CodeRegistrationStore, "A registration could not be stored",
		"The region's store did not accept the write, so the call was refused and nothing changed: a registration that a restart " +
			"would lose is not one. Check the disk (space, permissions) or the store's servers, and repeat the call."},
	{CodeRegistrationDamaged, "A stored registration cannot be read",
		"It was left in the store and is not used. It was written by a newer release or damaged. Register the instance again, " +
			"which replaces it."},
	{CodeRegistrationLoading, "Registrations have not been read from the store yet",
		"The gateway has just started, or its store does not answer. Repeat the call in a few seconds; the state of the source " +
			"\"api\" says why it takes long."},
	{CodeRegistrationsFull, "There are as many registrations as there may be",
		"New registrations are refused, the existing ones stay. Deregister instances that are gone, or register with " +
			"deregister_after, so that instances whose heartbeats stopped are removed (tradewind instance register --deregister-after)."},
	{CodeRegistrationHealth, "A heartbeat's health is not one that can be said",
		"A heartbeat says passing, failing or draining. Unknown is what a missing heartbeat means."},
	{CodeFileMalformed, "A file of instances is not valid",
		"The instances of the last valid file stay in use. The message gives line and column. A file holds one object, " +
			"{\"instances\": [{\"id\": \"...\", \"service\": \"...\", \"address\": \"IP:port\"}]}; an unknown field is an error."},
	{CodeFileUnreadable, "A file of instances cannot be read",
		"The instances of the last valid file stay in use: a missing file is not a statement that there are no instances. To " +
			"withdraw them all, write a file with {\"instances\": []}, or remove the source."},
	{CodeFileTooLarge, "Files of instances are larger than allowed",
		"The instances of the last valid set stay in use. One file may have 16 MiB, a directory 64 MiB in 1024 files."},
	{CodeFileEmptyDirectory, "A directory of instances holds no JSON file",
		"The instances of the last valid set stay in use, because an empty directory is what a lost mount looks like. To withdraw " +
			"them all, write one file with {\"instances\": []}."},
}
