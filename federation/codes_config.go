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
	{"TW-1101", "The data directory cannot be used", `The gateway keeps its keys and state in data_dir. The directory cannot be made or
read, or others may write it, or state.db is readable by others. Give it to the gateway's user: chmod 700 DIR; chmod 600 DIR/state.db`},
	{"TW-1102", "The data directory is in use", `Another process works on the same data_dir; two writers would destroy it. The lock goes with its
process, so there is nothing to clean up: stop the process named in the message, or set another data_dir.`},
	{"TW-1103", "The state file is damaged or is something else", `The gateway checks every page and record of state.db before it uses the file, and this
one is not whole. It was not changed. Restore a backup: peers notice the older epoch and agree anew by themselves. Without a
backup, move the file away; the region then starts with a new CA and must be peered again.`},
	{"TW-1104", "The state file was written by a newer version", `A newer Tradewind wrote state.db in a format that this version does not know. It was
not changed. Go back to the newer version, or restore the backup made before the upgrade.`},
	{"TW-1105", "No room to write the state", `The file system of data_dir is full or over quota. What was being written was refused as a whole; everything
acknowledged earlier is safe, traffic goes on, and writes work again as soon as there is room.`},
	{"TW-1106", "Writing the state failed", `The disk refused a write or a flush for another reason than room. After that nobody can tell what is really on
the disk, so the store takes no more writes; traffic goes on. Look at the kernel log, then restart the gateway.`},
	{"TW-1107", "The epoch was not moved so far ahead", `A peer claims to know a later life of this region than its state does, further ahead than any number of
restarts explains. Nothing was changed. The peer's state is damaged or it lies: look at its version and log, or remove the peering.`},
}
