package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) certCommand() *cobra.Command {
	return group("cert", "Issue, list and revoke certificates", "", c.certListCommand(), c.certIssueCommand(), c.certRevokeCommand(), c.certRotateCommand())
}

func (c *cli) certListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the certificates this region issued and the bundles it trusts",
		Args: takes(0, 0),
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, _ []string) error {
			res, err := gw.CertList(ctx, &admin.CertListRequest{})
			if err != nil {
				return err
			}
			var names []string
			for _, cert := range res.Certificates {
				names = append(names, cert.Serial)
			}
			return c.emit(answer{value: res, items: listOf(res.Certificates), names: names, table: func(s *screen) {
				c.certScreen(s,
					res)
			}})
		}),
	}
}

func (c *cli) certScreen(s *screen, res *admin.CertListResponse) {
	var rows [][]cell
	for _, cert := range res.Certificates {
		left := cell{text: c.until(cert.NotAfter)}
		if strings.HasPrefix(left.text, "EXPIRED") {
			left.style = bad
		}
		if !cert.Revoked.IsZero() {
			left = cell{text: strings.TrimSpace("REVOKED " + c.ago(cert.Revoked) + " " + cert.Reason), style: bad}
		}
		rows = append(rows, []cell{{text: cert.Role}, {text: cert.ID}, left, {text: c.until(cert.Renews)}, {text: cert.Serial}})
	}
	s.table([]string{"ROLE", "IDENTITY", "VALID FOR", "RENEWS IN", "SERIAL"}, rows)
	if len(res.Bundles) == 0 {
		return
	}
	s.line("")
	rows = nil
	for _, b := range res.Bundles {
		region := string(b.Region)
		if b.Own {
			region += " (own)"
		}
		rows = append(rows, text(region, b.TrustDomain, fmt.Sprint(b.Sequence), fmt.Sprint(b.Roots), c.until(b.NotAfter), b.Fingerprint))
	}
	s.table([]string{"BUNDLE OF", "TRUST DOMAIN", "SEQUENCE", "ROOTS", "VALID FOR", "FINGERPRINT"}, rows)
}

func (c *cli) certIssueCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "issue SERVICE", Short: "Make a key here and have its certificate issued", Args: takes(1, 1),
		ValidArgsFunction: c.completeServices,
		Long: `Make a P-256 key on this host and have the region's CA issue a certificate for SERVICE. Written are SERVICE.key, SERVICE.crt
(the chain) and bundle.crt (the roots to trust), readable by you only. The private key never leaves this host.`,
		Example: "  tradewind cert issue web --out /etc/web/tls",
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			service, err := parseService(args[0])
			if err != nil {
				return err
			}
			return c.issue(ctx, gw, service, dir)
		}),
	}
	cmd.Flags().StringVar(&dir, "out", ".", "directory to write to")
	return cmd
}

func (c *cli) issue(ctx context.Context, gw *admin.Client, service federation.ServiceName, dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the private key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encode the public key: %w", err)
	}
	res, err := gw.CertIssue(ctx, &admin.CertIssueRequest{Service: service,
		PublicKeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fileError("the certificate was issued, but "+dir+" cannot be made", err)
	}
	base := filepath.Join(dir, strings.ReplaceAll(service.String(), "/", "."))
	var written []string
	for _, f := range []struct{ path, content string }{
		{base + ".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))},
		{base + ".crt", res.ChainPEM},
		{filepath.Join(dir, "bundle.crt"), res.BundlePEM},
	} {
		if err := writeFile(f.path, f.content); err != nil {
			return err
		}
		written = append(written, f.path)
	}
	c.say("issued %s, valid for %s, serial %s", res.ID, c.until(res.NotAfter), res.Serial)
	value := struct {
		Serial   string     `json:"serial"`
		ID       string     `json:"id"`
		NotAfter admin.Time `json:"not_after"`
		Files    []string   `json:"files"`
	}{res.Serial, res.ID, res.NotAfter, written}
	err = c.emit(answer{value: value, names: written, table: func(s *screen) {
		for _, path := range written {
			s.line("%s", path)
		}
	}})
	c.next("openssl x509 -in %s.crt -noout -text", base)
	return err
}

func (c *cli) certRevokeCommand() *cobra.Command {
	var reason string
	var yes bool
	cmd := &cobra.Command{
		Use: "revoke SERIAL|SPIFFE-ID", Short: "Revoke a certificate, or all of an identity", Args: takes(1, 1),
		Long: `Revoke a certificate by its serial, or every certificate of an identity. Connections that were made with it are closed, here
and at the peers.`,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			if c.inTTY && !yes {
				if err := c.confirm(ctx, "Revoke "+args[0]+"?"); err != nil {
					return err
				}
			}
			res, err := gw.CertRevoke(ctx, &admin.CertRevokeRequest{Certificate: args[0], Reason: reason})
			if err != nil {
				return err
			}
			var names []string
			for _, cert := range res.Revoked {
				names = append(names, cert.Serial)
			}
			c.say("revoked %s", count(len(res.Revoked), "certificate"))
			c.next("tradewind cert list")
			return c.emit(answer{value: res, items: listOf(res.Revoked), names: names, table: func(s *screen) {
				for _, cert := range res.Revoked {
					s.line("%s  %s", cert.Serial, cert.ID)
				}
			}})
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who come after you")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// writeFile writes a file that only its owner may read, in one step, so that nobody ever reads half of it.
func writeFile(path, content string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // with mode 0600
	if err != nil {
		return fileError("cannot write "+path, err)
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fileError("cannot write "+path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

func fileError(what string, err error) error {
	return &federation.Diagnostic{Code: "TW-8023", What: what, Why: err.Error(), Fix: "check the path and its permissions", Err: err}
}

func (c *cli) certRotateCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "rotate-ca", Short: "Give the region a new root", Args: takes(0, 0),
		Long: `Give the region a new root beside the old one. The old root signs the new one, so peers accept it at once; it stays trusted
until everything it signed has ended. No connection is dropped.`,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, _ []string) error {
			if c.inTTY && !yes {
				if err := c.confirm(ctx, "Make a new root?"); err != nil {
					return err
				}
			}
			res, err := gw.CertRotateCA(ctx, &admin.CertRotateCARequest{})
			if err != nil {
				return err
			}
			c.say("the region has a new root; its fingerprint is %s", res.Bundles[0].Fingerprint)
			c.next("tradewind cert list")
			return c.emit(answer{value: res, items: listOf(res.Bundles), table: func(s *screen) {
				for _, b := range res.Bundles {
					if b.Own {
						s.line("%s  %s  %s", b.TrustDomain, count(b.Roots, "root"), b.Fingerprint)
					}
				}
			}})
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}
