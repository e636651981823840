package federation

// The codes of ingress: TW-62xx.
const (
	CodeIngressListen      Code = "TW-6201"
	CodeIngressCertificate Code = "TW-6202"
	CodeIngressExpired     Code = "TW-6203"
	CodeIngressNoName      Code = "TW-6204"
	CodeIngressOrder       Code = "TW-6205"
	CodeIngressRenewal     Code = "TW-6206"
	CodeIngressPage        Code = "TW-6207"
)

// ingressCodes are the diagnoses of north-south listeners.
var ingressCodes = []CodeHelp{
	{CodeIngressListen, "An ingress cannot bind its address",
		"The gateway could not open the port that an ingress resource names, so nobody outside can connect there. The usual causes are " +
			"another process on the same port, an address that is not this host's, or a port below 1024 without CAP_NET_BIND_SERVICE. An " +
			"ingress that was moved to the address stays at its old one. The gateway tries again every few seconds; to see who holds the " +
			"port, run \"ss -xltunp\"."},
	{CodeIngressCertificate, "A certificate of an ingress cannot be used",
		"A file that a tls block names does not exist, cannot be read by the gateway's user, holds no PEM, or the key is not that of the " +
			"certificate. The pair that was read last stays in use; without one, TLS connections for its names are refused. The files are " +
			"looked at every second, so writing the certificate and then its key is fine."},
	{CodeIngressExpired, "A certificate of an ingress has expired, or will soon",
		"Clients refuse a certificate that has expired. It is served all the same, because some clients do not look, and none would be worse. " +
			"Renew it and replace the files; nothing has to be restarted."},
	{CodeIngressNoName, "An ingress has no certificate for a host",
		"A host block names a host for which none of the certificates of the tls blocks is. Connections that ask for the host are refused in the " +
			"TLS handshake: no other certificate is shown instead."},
	{CodeIngressOrder, "An ingress gets no certificate by ACME",
		"The authority that an acme block names has issued no certificate, so connections for the name are refused in the TLS handshake. Either the " +
			"authority is not reached, or it has not reached this gateway: it connects to port 443 of every address that the name has in the DNS " +
			"(TLS-ALPN-01, answered by the ingress itself), or to port 80 (HTTP-01, answered by an ingress in clear text on the same address, if " +
			"there is one). It is tried again after a minute, then twice as long each time, up to six hours; \"tradewind ingress show NAME\" says when."},
	{CodeIngressRenewal, "A certificate by ACME is not renewed",
		"The authority has issued no new certificate in time. The last one is served, and clients take it until it ends. A certificate is renewed " +
			"when a third of its life is left, or when the authority asks for it, so there is time to find out why: the causes are those of TW-6205."},
	{CodeIngressPage, "An error page of an ingress cannot be used",
		"The file that an error_page block names does not exist, has more than 64 KiB, is no regular file, or cannot be read by everybody on the " +
			"host: whoever may write resources must not have the gateway publish a file that only it may read. The page that was read last stays " +
			"in use; without one, callers get the status as a line of text. The file is looked at every second."},
}
