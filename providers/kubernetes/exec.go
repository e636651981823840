package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// plugin is a program that knows a token, such as "aws eks get-token" or gke-gcloud-auth-plugin
// (https://kubernetes.io/docs/reference/config-api/client-authentication.v1/).
type plugin struct {
	APIVersion string   `yaml:"apiVersion"`
	Command    string   `yaml:"command"`
	Args       []string `yaml:"args"`
	Env        []struct {
		Name  string `yaml:"name"`
		Value string `yaml:"value"`
	} `yaml:"env"`
	Hint string `yaml:"installHint"`
	Info bool   `yaml:"provideClusterInfo"`
	Mode string `yaml:"interactiveMode"`
}

const (
	pluginTime = time.Minute // the command line tools of clouds are programs in Python
	maxPlugin  = 64 << 10    // of its output
)

func (p *plugin) validate() error {
	switch {
	case p.Command == "":
		return errors.New("command is empty")
	case p.APIVersion != "client.authentication.k8s.io/v1" && p.APIVersion != "client.authentication.k8s.io/v1beta1":
		return fmt.Errorf("apiVersion %q is not known: use client.authentication.k8s.io/v1", poll.Clip(p.APIVersion))
	case p.Mode == "Always":
		return errors.New("interactiveMode is Always, and nobody sits at a gateway")
	}
	return nil
}

// execCredential is what a plugin is told, and what it answers.
type execCredential struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Spec       *execSpec `json:"spec,omitempty"`
	Status     *struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expirationTimestamp"`
		Cert    string    `json:"clientCertificateData"`
	} `json:"status,omitempty"`
}

type execSpec struct {
	Interactive bool         `json:"interactive"`
	Cluster     *execCluster `json:"cluster,omitempty"`
}

type execCluster struct {
	Server string `json:"server"`
	CA     []byte `json:"certificate-authority-data,omitempty"`
}

// token returns a function that runs the plugin.
func (p *plugin) token(dir, server string, ca []byte) func(context.Context) (string, time.Time, error) {
	return func(ctx context.Context) (string, time.Time, error) {
		token, until, err := p.run(ctx, dir, server, ca)
		if err != nil {
			return "", time.Time{}, fmt.Errorf("run %s for a token: %w", p.Command, err)
		}
		return token, until, nil
	}
}

func (p *plugin) run(ctx context.Context, dir, server string, ca []byte) (string, time.Time, error) {
	ask := execCredential{APIVersion: p.APIVersion, Kind: "ExecCredential", Spec: &execSpec{}}
	if p.Info {
		ask.Spec.Cluster = &execCluster{Server: server, CA: ca}
	}
	info, err := json.Marshal(ask)
	if err != nil {
		return "", time.Time{}, err
	}
	command := p.Command
	if strings.ContainsRune(command, filepath.Separator) {
		command = beside(dir, command)
	}
	ctx, cancel := context.WithTimeout(ctx, pluginTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, command, p.Args...)
	cmd.Env = append(os.Environ(), "KUBERNETES_EXEC_INFO="+string(info))
	for _, e := range p.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	var out, sorry clipped
	cmd.Stdout, cmd.Stderr = &out, &sorry
	cmd.WaitDelay = time.Second // for children that keep the pipes open
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", time.Time{}, fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		if errors.Is(err, exec.ErrNotFound) && p.Hint != "" {
			return "", time.Time{}, fmt.Errorf("%w: %s", err, poll.Clip(p.Hint))
		}
		return "", time.Time{}, fmt.Errorf("%w: %s", err, poll.Clip(string(sorry.kept)))
	}
	return p.answer(out.kept)
}

// answer reads what the plugin wrote.
func (p *plugin) answer(b []byte) (string, time.Time, error) {
	var c execCredential
	if err := json.Unmarshal(b, &c); err != nil {
		return "", time.Time{}, fmt.Errorf("read its answer: %w", err)
	}
	switch {
	case c.Kind != "ExecCredential" || c.APIVersion != p.APIVersion:
		return "", time.Time{}, fmt.Errorf("its answer is a %q of %q, want an ExecCredential of %q", poll.Clip(c.Kind), poll.Clip(c.APIVersion),
			p.APIVersion)
	case c.Status == nil || c.Status.Token == "" && c.Status.Cert == "":
		return "", time.Time{}, errors.New("its answer holds no token")
	case c.Status.Token == "":
		return "", time.Time{}, errors.New("its answer holds a certificate and no token, which is not supported")
	case c.Status.Expires.IsZero():
		// It is good until the server refuses it, says the protocol.
		return c.Status.Token, time.Now().Add(100 * 365 * 24 * time.Hour), nil
	}
	return c.Status.Token, c.Status.Expires, nil
}

// clipped keeps as much of a program's output as may be read. It is no bytes.Buffer, whose ReadFrom would take all.
type clipped struct{ kept []byte }

// Write implements io.Writer.
func (c *clipped) Write(b []byte) (int, error) {
	c.kept = append(c.kept, b[:min(len(b), maxPlugin-len(c.kept))]...)
	return len(b), nil
}
