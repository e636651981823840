package federation

// The codes of the tunnel: TW-60xx.
const (
	CodeGatewaySilent  Code = "TW-6001"
	CodeGatewayTLS     Code = "TW-6002"
	CodeGatewayName    Code = "TW-6003"
	CodeGatewayRefused Code = "TW-6004"
	CodeNoPath         Code = "TW-6005"
	CodeSocketBuffers  Code = "TW-6006"
	CodeMeshListen     Code = "TW-6007"
	CodePathDown       Code = "TW-6008"
	CodeForeignSource  Code = "TW-6009"
	CodeLaneListen     Code = "TW-6010"
	CodeLaneSilent     Code = "TW-6011"
	CodeNoBBR          Code = "TW-6012"
)

// The codes of the mesh: TW-61xx.
const (
	CodeUpstreamListen Code = "TW-6101"
	CodeUpstreamTwice  Code = "TW-6102"
	CodeLocalListen    Code = "TW-6103"
)

// dataPathCodes are the diagnoses of the data path: TW-6xxx.
var dataPathCodes = []CodeHelp{
	{CodeGatewaySilent, "A peer's gateway is not reached",
		"The gateway sent packets to the address and nothing came back, or this host has no route to it. The mesh speaks QUIC, which is UDP, " +
			"and where that gets no answer TLS over TCP on the same port, unless mesh.lanes leaves one out; the message has the reason of " +
			"each. Open the mesh port (8443 unless configured otherwise) for UDP in both directions, or at least for TCP, and check that " +
			"the gateway over there runs and listens on that address."},
	{CodeGatewayTLS, "The TLS handshake with a peer's gateway failed",
		"Something answers at the address, but one side does not accept the other's certificate. Common causes: the peering exists on one " +
			"side only, a token was made by another region, one side has replaced its root, or a clock is wrong by hours. Compare " +
			"the trust of both sides, and peer again if a root has been replaced."},
	{CodeGatewayName, "A gateway address leads nowhere",
		"The address is not \"host:port\", or its host name does not resolve. Addresses of a peer's gateways come from its peering token " +
			"and from what it announces; correct the mesh address that the peer advertises, or the DNS record."},
	{CodeGatewayRefused, "A peer's gateway closed the connection",
		"The gateway answered and then closed the connection. It may be stopping, have too many connections from one address, or not know " +
			"this region as a peer. The quoted text is what it said; its own log says more."},
	{CodeNoPath, "There is no live path to a peer",
		"No session to any gateway of the peer is up, so that a flow to it fails at once instead of waiting. Sessions are dialled again every " +
			"0.1 to 5 seconds for as long as the peering exists. The reason of the last attempt is part of the message."},
	{CodeSocketBuffers, "The UDP socket buffers are small",
		"The kernel did not grant the size of buffer that the gateway asked for. Short bursts then overflow the socket: packets are lost that " +
			"had already arrived, and throughput falls. Raise net.core.rmem_max and net.core.wmem_max with sysctl and restart the gateway, " +
			"or give it CAP_NET_ADMIN."},
	{CodeMeshListen, "The mesh listener cannot bind its port",
		"Another process holds the port, the address does not belong to this host, or the port is below 1024 and the gateway may not bind it."},
	{CodePathDown, "The path to a peer went down",
		"Every session to the peer has ended or is silent. Flows that used them were reset; new ones go to other regions where a resolver " +
			"allows it. The gateway keeps dialling and says when the path is back."},
	{CodeForeignSource, "A peer opened a flow in the name of a foreign identity",
		"A peer speaks for workloads of its own trust domain only. The flow named a source outside of it and was refused where it came in. " +
			"That does not happen between gateways that work: treat the peer's gateway as broken or taken over."},
	{CodeLaneListen, "The mesh listener cannot bind its TCP port",
		"Flows go over QUIC, and over TLS on TCP where UDP is blocked or a bulk transfer is better off there. The gateway binds the mesh port " +
			"for both; it could not for TCP, most likely because another process holds it. QUIC works. Peers cannot reach this gateway " +
			"over TCP; it can still reach them. Free the port and restart, or set mesh.lanes = [\"quic\"] to do without."},
	{CodeLaneSilent, "A peer's gateway is not reached over TCP",
		"The gateway tried the mesh port over TCP and got no connection. QUIC serves meanwhile, but there is no other way when UDP is " +
			"blocked. Open the mesh port (8443 unless configured otherwise) for TCP as well as UDP, and check that the gateway over there " +
			"has \"tcp\" among its mesh.lanes and could bind the port."},
	{CodeNoBBR, "The kernel offers no BBR congestion control",
		"Over TCP, BBR keeps a link full although packets are lost; the usual cubic carries 3 Mbit/s at 40 ms and 1 % loss. Everything " +
			"works without. To have it: \"modprobe tcp_bbr\", and, for a gateway that is not root, add bbr to " +
			"net.ipv4.tcp_allowed_congestion_control; then restart."},
	{CodeUpstreamListen, "An upstream's address cannot be bound",
		"The gateway could not open the address that an upstream resource names, so local callers cannot connect there. The usual cause is " +
			"another process on the same port, or a unix socket in a directory that does not exist or that the gateway may not write to. All " +
			"other upstreams work. An upstream that was moved to the address stays at its old one, unless its caller was changed too. The " +
			"gateway tries again every few seconds; to see who holds the port, run \"ss -xltnp\"."},
	{CodeUpstreamTwice, "Two upstreams want the same address",
		"An address can stand for one upstream only, because whoever connects to it is taken for that upstream's caller. The upstream whose " +
			"name comes first has the address. Give the other one an address of its own, or delete it."},
	{CodeLocalListen, "The local mTLS listener cannot be opened",
		"Workloads that bring their own certificate connect to this listener (127.0.0.1:15001 unless configured otherwise). Its address is in " +
			"use or not allowed; it must be a loopback address or a unix socket. Free it, or set another one in gateway.hcl; without a local " +
			"listener the upstreams still work."},
}
