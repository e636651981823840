package federation

// adminCodes are the diagnoses of the admin API and the CLI: TW-8xxx.
var adminCodes = []CodeHelp{
	{"TW-8001", "The gateway cannot be reached", `The CLI talks to a gateway on the same host over a unix socket, admin.sock in the
gateway's data_dir, unless --address names a TCP one. Nobody answered there: the gateway is not running, runs with another data_dir, or
this user may not open the socket. Look with "systemctl status tradewind-gateway", and name the socket with --socket, --data-dir or
TRADEWIND_SOCKET. Nothing was changed. The exit code is 5.`},
	{"TW-8002", "The gateway did not answer in time", `The gateway took the call but had not finished when the time given with
--timeout was over. What was asked may still happen: look with "tradewind status" or by asking for the object itself before you repeat
a change. The exit code is 5.`},
	{"TW-8003", "This user may not use the admin socket", `The kernel tells the gateway which user is at the other end of its socket.
Root, the gateway's own user and the members of admin.group in gateway.hcl are let in, because whoever uses the API may do everything.
Run the command with sudo, or set admin.group, add the user to that group, restart the gateway and log in again.`},
	{"TW-8004", "The admin token is missing or wrong", `Over TCP the admin API wants "Authorization: Bearer TOKEN". The token is in
admin.token in the gateway's data_dir and may be read by the gateway's user only. Name the file with --token-file or
TRADEWIND_TOKEN_FILE. To make a new token, delete the file and restart the gateway.`},
	{"TW-8005", "A call from a browser was refused", `A request to the loopback address came under a host name that is not this
machine's, or from a web page of another origin. That is how a foreign page would try to use the API through somebody's browser.
Programs address the API as 127.0.0.1, [::1] or localhost and send no Origin. Behind a reverse proxy, let the proxy set the Host header
to 127.0.0.1.`},
	{"TW-8006", "The gateway did not accept the request", `The request was not valid JSON for the method, named a field that does not
exist, or was larger than 4 MiB. With the CLI this means that it and the gateway are of different versions: compare "tradewind version"
with "tradewind status".`},
	{"TW-8007", "The gateway does not know the method", `The CLI is newer than the gateway, or the gateway was built without this part.
Compare "tradewind version" with "tradewind status" and use the CLI that came with the gateway.`},
	{"TW-8008", "The gateway cannot listen on its admin socket", `The directory of admin.socket does not exist or may not be written, a
file that is no socket is in the way, or another gateway answers on it. A socket that a crash left behind is removed by itself. Two
gateways on one host need two data_dirs.`},
	{"TW-8009", "The admin API listens on loopback only", `admin.listen names an address that other machines could reach, or a host
name. Whoever uses the API may do everything, and its TCP listener has no encryption, so only 127.0.0.1 and [::1] are allowed. To reach
it from elsewhere, forward the port: ssh -L 8480:127.0.0.1:8480 HOST.`},
	{"TW-8010", "The gateway cannot listen for the admin API", `Another process has the port of admin.listen, or the address does not
exist on this host. Look who has it with "ss -ltnp", and choose another port in gateway.hcl; admin.listen = "" does without.`},
	{"TW-8011", "The gateway failed to answer", `The gateway met an error that it has no better explanation for. The cause is shown as
the gateway gave it; its log around the same time says more. Nothing is half done: changes of resources are made whole or not at all.`},
	{"TW-8012", "The admin token cannot be used", `The file with the token cannot be read or written, does not hold a token, or may be
read by others than its owner, so that the token must be taken for known. Delete the file and restart the gateway, which writes a new
one with mode 0600; or use the socket, which needs no token.`},
	{"TW-8013", "The group of the admin socket does not exist", `admin.group in gateway.hcl names a group that this host does not have.
Create it with "groupadd --system NAME" or remove the setting; root and the gateway's own user can always use the socket.`},
	{"TW-8015", "The command was interrupted", `The command was stopped before the gateway had answered. What was asked may still
happen: look with "tradewind status" or by asking for the object itself before you repeat a change.`},
	{"TW-8020", "The command was not used correctly", `An argument or a flag is missing, unknown or has a value it cannot have.
"tradewind help COMMAND" shows how the command is used, with examples. Nothing was sent to the gateway. The exit code is 2.`},
	{"TW-8021", "The file exists already", `"tradewind init" never overwrites a gateway.hcl, because a gateway may be running with it.
Remove the file first, or write to another directory with --dir.`},
	{"TW-8022", "The change was not confirmed", `The command asks before it changes something when it runs on a terminal, and the
answer was not "yes". Nothing was changed. With --yes it does not ask.`},
	{"TW-8023", "A file cannot be read or written", `The CLI could not read a file it was given, or write its result: the directory
does not exist, or this user may not write there. What the gateway had already done is said in the message.`},
	{"TW-8024", "There is no such code or command", `"tradewind help" explains commands and codes such as TW-8024. The code is not one
of this version: it may come from a newer gateway, or be mistyped.`},
	{"TW-8026", "The gateway works, but not as well as it should", `With --strict, "tradewind status" and "tradewind check" end with
exit code 4 when a peer's catalog is stale, traffic goes the slower way, or there are warnings. The lines above say which.`},
	{"TW-8901", "The demo needs tradewind-gateway", `The demo starts real gateways and looks for tradewind-gateway in the directory of
the tradewind program. Build both with "make build", or install both in one place.`},
	{"TW-8907", "The demo has nowhere to write", `The demo keeps all that it writes in one new directory, below TMPDIR or else /tmp, and
removes it at the end. The path of a socket in it must stay short: the kernel allows 107 octets. Set TMPDIR to a directory that can be written.`},
	{"TW-8908", "The demo could not be told to its end", `Something that the demo needs of this machine was not to be had, or did not happen in
the time that it takes even on a slow one: free ports of the loopback addresses, some 100 MB of memory and 20 MB of disk. What was
measured until then is shown. Nothing is left behind, so it can simply be started again.`},
	{"TW-8902", "The log level is unknown", `The levels are debug, info, warn and error. The level was not changed.`},
	{"TW-8903", "There is no such service", `No source of this region has the service and no peer shows it. "tradewind services list" shows
what there is; a peer shows a service once it has an export for this region there.`},
	{"TW-8904", "The public key cannot be read", `A certificate is issued for a public key in PKIX form, one PEM block of type PUBLIC KEY.
"tradewind cert issue" makes a key and sends its public part; with a key of your own: openssl pkey -in KEY -pubout.`},
	{"TW-8905", "No gateway of a peer can be reached", `None of the sessions with the peer's gateways is alive, and dialling them fails
with the cause shown. As a rule UDP to the peer's mesh port is blocked, or its gateway is down. "tradewind check --peer REGION" says more.`},
	{"TW-8906", "A caller or destination is not understood", `A caller is written "web", "shop/web", "web@region" or as its SPIFFE ID, a
destination "checkout", "shop/checkout" or "checkout@region". A region must be this one or a peer.`},
	{"TW-8911", "The region's store cannot be read", `Reading the embedded database failed. Traffic goes on with what is in memory, but
nothing can be changed. Look at the disk of the data directory and the kernel log, then restart the gateway.`},
	{"TW-8912", "The disk of the data directory is nearly full", `The region's state needs little room, but when the disk is full no
change can be written. Traffic goes on. Free some space; nothing needs to be restarted.`},
	{"TW-8913", "A certificate is about to end", `Gateways renew their own certificate at half of its twelve hours, and a CA lasts five
years. A gateway's certificate that is not renewed has its reason in the log. For a CA, rotate it, or establish the peerings again.`},
	{"TW-8914", "The kernel limits UDP buffers", `A burst that does not fit into the socket's buffer is dropped and sent again, which costs
throughput on fast links. Allow 7 MiB: sysctl -w net.core.rmem_max=7340032 net.core.wmem_max=7340032, and put both lines into a file in
/etc/sysctl.d so that they survive a reboot.`},
	{"TW-8915", "Peers have no address to dial", `The host has no address that another one could reach, so tokens would carry none. Set
mesh.advertise in gateway.hcl to what peers dial: a load balancer, a public address, a DNS name.`},
	{"TW-8916", "A source cannot be read", `The source of instances failed with the cause shown. Its last complete set stays in use and its
age grows. It is tried again by itself.`},
	{"TW-8917", "A service has no healthy instance", `Calls to the service are answered by another region, if one has it, and fail
otherwise. The reason of the first failing instance is shown; "tradewind services show NAME" lists all of them.`},
	{"TW-8918", "A peering is not in use", `It waits for its token to be redeemed, was paused, or was removed by one side. The reason is
shown. A paused one goes on with "tradewind peer resume REGION"; a removed one is established again with a new token.`},
	{"TW-8919", "A peering does not work", `It was established and no session makes progress now. What was imported stays in use and ages.
"tradewind peer show REGION" has the last error and the next attempt.`},
	{"TW-8920", "A peer's catalog is not fresh", `The peer has not confirmed for more than five seconds that what we have is all it has.
Its services stay in use, behind those of fresh peers; after max_stale they are withdrawn.`},
	{"TW-8921", "Only one side can dial the other", `Everything works over sessions that one side opens, but when that side cannot dial, no
session is made. Open the mesh port in the other direction too, or accept it.`},
	{"TW-8922", "There is no way for traffic to a peer", `No flow session with the peer is alive, so calls go to other regions. Check that
UDP to the peer's mesh port is open both ways; the last error is shown.`},
}
