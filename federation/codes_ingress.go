package federation

// The codes of ingress: TW-62xx.
const (
	CodeIngressListen      Code = "TW-6201"
	CodeIngressCertificate Code = "TW-6202"
	CodeIngressExpired     Code = "TW-6203"
	CodeIngressNoName      Code = "TW-6204"
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
}
