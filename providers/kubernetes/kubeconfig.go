package kubernetes

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
	"go.yaml.in/yaml/v3"
)

// kubeconfig is the part of a kubeconfig file that is used
// (https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/).
type kubeconfig struct {
	Current  string `yaml:"current-context"`
	Contexts []struct {
		Name    string `yaml:"name"`
		Context struct {
			Cluster string `yaml:"cluster"`
			User    string `yaml:"user"`
		} `yaml:"context"`
	} `yaml:"contexts"`
	Clusters []struct {
		Name    string      `yaml:"name"`
		Cluster kubeCluster `yaml:"cluster"`
	} `yaml:"clusters"`
	Users []struct {
		Name string   `yaml:"name"`
		User kubeUser `yaml:"user"`
	} `yaml:"users"`
}

type kubeCluster struct {
	Server     string `yaml:"server"`
	ServerName string `yaml:"tls-server-name"`
	Insecure   bool   `yaml:"insecure-skip-tls-verify"`
	CAFile     string `yaml:"certificate-authority"`
	CA         string `yaml:"certificate-authority-data"`
	Proxy      string `yaml:"proxy-url"`
}

type kubeUser struct {
	CertFile  string     `yaml:"client-certificate"`
	Cert      string     `yaml:"client-certificate-data"`
	KeyFile   string     `yaml:"client-key"`
	Key       string     `yaml:"client-key-data"`
	Token     string     `yaml:"token"`
	TokenFile string     `yaml:"tokenFile"`
	Exec      *plugin    `yaml:"exec"`
	As        string     `yaml:"as"`
	Username  string     `yaml:"username"`
	Provider  *yaml.Node `yaml:"auth-provider"`
}

// readKubeconfig returns the cluster of a context. Paths in the file are relative to it.
func readKubeconfig(path, contextName string) (Cluster, error) {
	b, err := readFile(path, maxFile)
	if err != nil {
		return Cluster{}, err
	}
	c, err := parseKubeconfig(b, contextName, filepath.Dir(path))
	if err != nil {
		return Cluster{}, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	sum := sha256.Sum256(b)
	c.version = string(sum[:])
	return c, nil
}

func parseKubeconfig(b []byte, contextName, dir string) (Cluster, error) {
	var k kubeconfig
	if err := yaml.Unmarshal(b, &k); err != nil {
		return Cluster{}, err
	}
	contextName = cmp.Or(contextName, k.Current)
	if contextName == "" {
		return Cluster{}, errors.New("it has no current-context: name a context")
	}
	var cluster *kubeCluster
	var user kubeUser
	var clusterName, userName string
	found, userFound := false, false
	for _, c := range k.Contexts {
		if c.Name == contextName {
			clusterName, userName, found = c.Context.Cluster, c.Context.User, true
		}
	}
	if !found {
		return Cluster{}, fmt.Errorf("it has no context %q", poll.Clip(contextName))
	}
	for i, c := range k.Clusters {
		if c.Name == clusterName {
			cluster = &k.Clusters[i].Cluster
		}
	}
	for _, u := range k.Users {
		if u.Name == userName {
			user, userFound = u.User, true
		}
	}
	if cluster == nil {
		return Cluster{}, fmt.Errorf("context %q: there is no cluster %q", poll.Clip(contextName), poll.Clip(clusterName))
	}
	if !userFound && userName != "" {
		return Cluster{}, fmt.Errorf("context %q: there is no user %q", poll.Clip(contextName), poll.Clip(userName))
	}
	out, err := cluster.read(dir)
	if err != nil {
		return Cluster{}, fmt.Errorf("cluster %q: %w", poll.Clip(clusterName), err)
	}
	out.Name = clusterName
	if err := user.read(dir, &out); err != nil {
		return Cluster{}, fmt.Errorf("user %q: %w", poll.Clip(userName), err)
	}
	return out, nil
}

func (k *kubeCluster) read(dir string) (c Cluster, err error) {
	if k.Insecure {
		return c, errors.New("insecure-skip-tls-verify would show a token to anybody: give certificate-authority instead")
	}
	if _, err := parseEndpoint(k.Server); err != nil {
		return c, err
	}
	c.Endpoint, c.serverName = k.Server, k.ServerName
	if c.CA, err = dataOrFile("certificate-authority", k.CA, dir, k.CAFile); err != nil {
		return c, err
	}
	if k.Proxy != "" {
		if c.proxy, err = url.Parse(k.Proxy); err != nil {
			return c, fmt.Errorf("proxy-url: %w", err)
		}
	}
	return c, nil
}

// read fills in the user's credentials. A kind that is not known is an error: without it another identity would be used.
func (u *kubeUser) read(dir string, c *Cluster) error {
	switch {
	case u.As != "":
		return errors.New("impersonation (as) is not supported: give the gateway an identity of its own")
	case u.Username != "":
		return errors.New("username is not supported, nor by Kubernetes since 1.19: use a token, a certificate or exec")
	case u.Provider != nil:
		return errors.New("auth-provider is not supported, nor by Kubernetes since 1.26: use exec")
	}
	cert, err := dataOrFile("client-certificate", u.Cert, dir, u.CertFile)
	if err != nil {
		return err
	}
	key, err := dataOrFile("client-key", u.Key, dir, u.KeyFile)
	if err != nil {
		return err
	}
	if cert != nil || key != nil {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("read the client's certificate: %w", err)
		}
		c.certificate = &pair
	}
	switch token := u.Token; { // the order of kubectl
	case u.TokenFile != "":
		c.Token = fileToken(beside(dir, u.TokenFile))
	case token != "":
		c.Token = func(context.Context) (string, time.Time, error) { return token, time.Time{}, nil }
	case u.Exec != nil:
		if err := u.Exec.validate(); err != nil {
			return fmt.Errorf("exec: %w", err)
		}
		c.Token = u.Exec.token(dir, c.Endpoint, c.CA)
	}
	return nil
}

// dataOrFile returns what the base64 data says or, without it, the file.
func dataOrFile(what, data, dir, file string) ([]byte, error) {
	if data != "" {
		b, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			return nil, fmt.Errorf("%s-data: %w", what, err)
		}
		return b, nil
	}
	if file == "" {
		return nil, nil
	}
	return readFile(beside(dir, file), maxFile)
}

func beside(dir, file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

// readFile reads a file of at most so many octets.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(b)) > most {
		return nil, fmt.Errorf("%s is larger than %d octets", path, most)
	}
	return b, nil
}

// fileToken returns a token that is read anew each time: kubelet renews it in place.
func fileToken(path string) func(context.Context) (string, time.Time, error) {
	return func(context.Context) (string, time.Time, error) {
		b, err := readFile(path, maxToken)
		if err != nil {
			return "", time.Time{}, err
		}
		token := string(bytes.TrimSpace(b))
		if token == "" || strings.ContainsAny(token, " \r\n") {
			return "", time.Time{}, fmt.Errorf("%s does not hold one token", path)
		}
		return token, time.Time{}, nil
	}
}
