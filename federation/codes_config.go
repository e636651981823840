package federation

// configCodes are the diagnoses of config, store and resources: TW-1xxx.
var configCodes = []CodeHelp{
	{"TW-1001", "The gateway's configuration is not valid", `A file names a setting that does not exist, or gives one a value it cannot have. Every
error of every file is shown with its line. Nothing was started, and on a reload the running configuration stays in force.
Check a file before using it: tradewind config validate FILE`},
	{"TW-1002", "The gateway's configuration cannot be read", `The file or directory given with -config does not exist, may not be read by this
user, or holds no *.hcl file. Write a first one with: tradewind init REGION`},
	{"TW-1003", "Resources cannot be read", `The file or directory does not exist or may not be read by this user. Resources are read from files that
end in .hcl or .json, from directories of such files, and from standard input when the name is a hyphen.`},
	{"TW-1004", "Resources are not valid", `A file declares something that does not exist, or gives it a value it cannot have. Every error of every
file is shown with its line, and nothing was changed: resources are applied all together or not at all.`},
	{"TW-1005", "The access log cannot be written", `The file named by access_log does not exist in a directory that this user may write
to. Set it to a writable file, to "stdout" or to "off".`},
	{"TW-1006", "A watched resources directory is not in force", `A file in resources_dir does not parse, or what it declares was refused.
The resources that were applied last stay in force. The files are read again within two seconds of any change.`},
	{"TW-1007", "The configuration on disk was refused", `A reload (SIGHUP or "tradewind reload") found an error in gateway.hcl. The running
configuration stays in force, but a restart would fail. Correct the file and reload: "tradewind config validate FILE" shows every error.`},
	{"TW-1008", "Settings wait for a restart", `gateway.hcl was read again, and some of what changed in it, such as listeners, cannot change in a
running gateway. The old values stay in force until a restart. A region cannot change its name or its trust domain that way: peers know it by
them, so give a renamed region a data_dir of its own.`},
	{"TW-1009", "Resources of a directory that is no longer watched", `resources_dir was removed from gateway.hcl. What the directory
declared last stays in force, because absence is no deletion, and still belongs to it, so others need --force to change it. Set
resources_dir again (another directory takes over what the old one declared), or delete them: tradewind delete KIND NAME --force`},
	{"TW-1101", "The data directory cannot be used", `The gateway keeps its keys and state in data_dir. The directory cannot be made,
read or written, or others may write it, or state.db is readable by others. Give it to the gateway's user: chmod 700 DIR; chmod 600 DIR/state.db.
A gateway that has no state yet needs some room, and every one a file system that is mounted for writing.`},
	{"TW-1102", "The data directory is in use", `Another process works on the same data_dir; two writers would destroy it. The lock goes
with its process, so there is nothing to clean up: stop the process named in the message, or set another data_dir.`},
	{"TW-1103", "The state file is damaged or is something else", `The gateway checks every page and record of state.db before it uses the
file, and this one is not whole. It was not changed. Restore a backup: peers notice the older epoch and agree anew by themselves.
Without a backup, move the file away; the region then starts with a new CA and must be peered again.`},
	{"TW-1104", "The state file was written by a newer version", `A newer Tradewind wrote state.db in a format that this version does not
know. It was not changed. Go back to the newer version, or restore the backup made before the upgrade.`},
	{"TW-1105", "No room to write the state", `The file system of data_dir is full or over quota. What was being written was refused as a
whole; everything acknowledged earlier is safe, traffic goes on, and writes work again as soon as there is room.`},
	{"TW-1106", "Writing the state failed", `The disk refused a write or a flush for another reason than room. After that nobody can tell
what is really on the disk, so the store takes no more writes; traffic goes on. Look at the kernel log, then restart the gateway.`},
	{"TW-1107", "The epoch was not moved so far ahead", `A peer claims to know a later life of this region than its state does, further
ahead than any number of restarts explains. Nothing was changed. The peer's state is damaged or it lies: look at its version and log, or
remove the peering.`},
	{"TW-1201", "A resource is not valid", `A resource breaks a rule: a value that does not exist, a name that is no DNS label, an address without a
port. Every broken rule of every resource is shown, and nothing was changed: resources are applied all together or not at all.`},
	{"TW-1202", "The resource belongs to another owner", `Every resource remembers who wrote it: a watched directory, Terraform, the CLI. Another owner's write is
refused, so that two tools never undo each other's work. Change it where its owner keeps it. To move it for good, remove it
there and take it over here with --force; as long as both list it, each refuses the other.`},
	{"TW-1203", "The resource has changed since it was read", `The write named the version that it meant to replace, and the resource is at another one or is gone. Nothing was
changed. Read it again, redo the change, and write it with the new version; a write without a version is not checked.`},
	{"TW-1204", "There is no such resource", `No resource of this kind has that name. See what there is: tradewind get KIND. Names of services may carry a namespace:
"shop/web"; without one it is "default".`},
	{"TW-1205", "A change names a resource twice", `One resource is listed twice, or is both put and deleted. "web" and "default/web" are the same name. Which of the two was
meant cannot be known, so nothing was changed.`},
	{"TW-1206", "Too many or too large resources", `A region holds at most 10,000 resources of at most 64 KiB each, and one change writes at most 4,095 of them. Apply
more in parts. Services with very many instances should come from a source (a provider, a file) instead of a resource.`},
	{"TW-1207", "Two listeners have one address", `Only one upstream or ingress can have an address, so the second one would never work. Give one of them another port or socket.`},
	{"TW-1208", "Other writers were faster", `Somebody else changed the region's resources between the plan and the write, and again at the second try. Nothing was
changed. Apply it again.`},
	{"TW-1209", "A stored resource cannot be read", `A resource in the region's store is damaged, or was written by a newer version of Tradewind. It is kept as it is, but not in
force. While it is an intention, every call is denied, because it may have been a deny. Apply or delete it, or run the newer version again.`},
	{"TW-1210", "A change does not say who makes it", `Every resource has an owner, so that two tools never undo each other's work. Name one of 1-256 octets, such as "cli".`},
	{"TW-1211", "The region's store failed", `Resources could not be read from or written to the region's store. If it was a write, its outcome is unknown until the
store works again: what is stored then is what is in force. The cause is in the message; traffic goes on meanwhile.`},
	{"TW-1221", "A service is named that nobody has seen", `An export or an upstream names a service that no source has found and no service resource declares. That is fine if it is
about to appear, and a spelling mistake otherwise.`},
	{"TW-1222", "A region is named that is not known", `A resource names a region that is neither this one nor a peer. It has no effect until there is a peering with a region of
that name.`},
	{"TW-1223", "Two intentions say something about the same call", `Two intentions have the same source and destination. A deny counts before an allow, and of two allows the one that requires
more; the other one has no effect. Keep one of them.`},
	{"TW-1224", "Something is said about requests that nobody looks into", `A route, or an intention with http blocks, is for a service that is carried as
tcp: gateways do not look into what is sent. No rule of the route is asked. An allow for certain requests allows nothing, and a deny denies every
connection, because requests cannot be told apart. Declare how the service speaks: protocol = "http", "http2" or "grpc" in its service resource, or by the
tag mesh/protocol.`},
	{"TW-1226", "Claims are asked for of a provider that does not exist", "An http block of an intention names, in a claim block, a jwt " +
		"resource that does not exist. Nothing can vouch for its tokens: an allow that asks for such a claim allows nothing, and requests that " +
		"bring a bearer token are answered with 401. Declare it, jwt \"NAME\" { ... }, or correct the name."},
	{"TW-1225", "A subset is named that no resolver defines", `A rule of a route sends requests to a subset of a service's instances. Subsets are defined, by the labels
of their instances, in the resolver of that service; without the definition there is nobody to send the requests to.`},
}
