package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
)

func (c *cli) initCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "init REGION", Short: "Write a working gateway.hcl for a new gateway", Args: takes(1, 1),
		Long: `Write a working gateway.hcl. Only the region's name is needed; what else there is stands in the file as a comment, with
its default or an example. An existing file is never overwritten. --data-dir is written into the file.`,
		Example: "  sudo tradewind init aws-us-east-1 --dir /etc/tradewind\n  tradewind init lab --data-dir ./data",
		RunE: func(_ *cobra.Command, args []string) error {
			region, err := parseRegion(args[0])
			if err != nil {
				return err
			}
			data := c.flags.dataDir
			if data != "" {
				if data, err = filepath.Abs(data); err != nil {
					return fileError("cannot use the data directory "+c.flags.dataDir, err)
				}
			}
			path := filepath.Join(dir, "gateway.hcl")
			if err := createFile(path, config.Initial(region, data)); err != nil {
				return err
			}
			if _, err := config.Load(path); err != nil { // proof: what was written is what a gateway reads
				return err
			}
			c.say("wrote %s for region %s, trust domain %s", path, region, federation.DefaultTrustDomain(region))
			if err := c.emit(answer{value: map[string]string{"file": path}, names: []string{path}, table: func(s *screen) {
				s.line("%s",
					path)
			}}); err != nil {
				return err
			}
			c.next("tradewind-gateway -config %s", path)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "directory to write to; it is made if need be")
	return cmd
}

// createFile writes a new file and refuses to touch an old one.
func createFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fileError("cannot make the directory of "+path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		if os.IsExist(err) {
			return &federation.Diagnostic{Code: "TW-8021", What: path + " exists already", Why: "a gateway may be running with it",
				Fix: "write to another directory with --dir, or remove the file first", Err: fs.ErrExist}
		}
		return fileError("cannot write "+path, err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path) // half a file would be in the way of the next attempt
		return fileError("cannot write "+path, err)
	}
	return nil
}

func (c *cli) configCommand() *cobra.Command {
	return group("config", "Check and show a gateway's configuration file", "",
		&cobra.Command{
			Use: "validate [PATH]", Short: "Check a configuration exactly as a gateway would read it", Args: takes(0, 1),
			Long: `Check gateway.hcl, or a directory of *.hcl files, with the code that a gateway reads it with. The resources
directory that it names is checked too. Every error is shown with its line. Nothing is started.`,
			Example: "  tradewind config validate\n  tradewind config validate /etc/tradewind/gateway.hcl",
			RunE: func(_ *cobra.Command, args []string) error {
				g, err := config.Load(configPath(args))
				if err != nil {
					return err
				}
				found := 0
				if g.ResourcesDir != "" {
					list, err := config.ParseResources(g.ResourcesDir)
					if err != nil {
						return err
					}
					found = len(list)
				}
				text := fmt.Sprintf("valid: region %s, %s", g.Region, count(len(g.Files), "file"))
				if g.ResourcesDir != "" {
					text += fmt.Sprintf(", %s in %s", count(found, "resource"), g.ResourcesDir)
				}
				err = c.emit(answer{value: map[string]any{"valid": true, "files": g.Files, "resources": found}, names: g.Files,
					table: func(s *screen) { s.line("%s %s", s.paint(good, "✓"), text) }})
				c.next("tradewind reload   (when the gateway runs with it)")
				return err
			},
		},
		&cobra.Command{
			Use: "show [PATH]", Short: "Show every setting with the value a gateway would use", Args: takes(0, 1),
			Long: "Show every setting with the value that a gateway would use. Of a provider it shows the services that may come from it.",
			RunE: func(_ *cobra.Command, args []string) error {
				g, err := config.Load(configPath(args))
				if err != nil {
					return err
				}
				pairs := settings(g)
				value := map[string]string{}
				for i := 0; i < len(pairs); i += 2 {
					value[pairs[i]] = pairs[i+1]
				}
				return c.emit(answer{value: value, names: g.Files, table: func(s *screen) {
					var rows [][]cell
					for i := 0; i < len(pairs); i += 2 {
						rows = append(rows, text(pairs[i], pairs[i+1]))
					}
					s.table([]string{"SETTING", "VALUE"}, rows)
				}})
			},
		})
}

// configPath is the file to read: the argument, else where packages put it, else the one here.
func configPath(args []string) string {
	const packaged = "/etc/tradewind/gateway.hcl"
	if len(args) > 0 {
		return args[0]
	}
	if _, err := os.Stat("gateway.hcl"); err == nil {
		return "gateway.hcl"
	}
	return packaged
}

// settings are the names and values of g, in the order of the file.
func settings(g *config.Gateway) []string {
	pairs := []string{
		"region", string(g.Region), "trust_domain", g.TrustDomain.Name(), "name", g.Name, "data_dir", g.DataDir,
		"mesh.listen", g.MeshListen, "mesh.advertise", strings.Join(g.Advertise, ", "), "mesh.lanes", strings.Join(g.MeshLanes, ", "),
		"local.listen", g.LocalListen,
		"admin.socket", g.AdminSocket, "admin.listen", g.AdminListen, "admin.group", g.AdminGroup,
		"resources_dir", g.ResourcesDir, "access_log", g.AccessLog, "max_stale", shortDuration(g.MaxStale), "drain_timeout",
		shortDuration(g.DrainTimeout),
		"log.level", strings.ToLower(g.LogLevel.String()), "log.format", g.LogFormat, "jwks.hosts", strings.Join(g.KeyHosts, ", "),
		"location.provider", g.Location.Provider, "location.region", g.Location.Region, "location.zone", g.Location.Zone,
		"location.zone_id", g.Location.ZoneID, "location.instance", g.Location.Instance, "location.lookup", strconv.FormatBool(g.Location.Lookup),
	}
	for _, s := range g.Sources {
		pairs = append(pairs, "source.file."+s.Name+".path", s.Path)
	}
	for _, p := range g.Providers {
		var services []string
		for _, d := range p.Discover {
			services = append(services, d.Service)
		}
		pairs = append(pairs, "provider."+p.Kind+"."+p.Name+".discover", strings.Join(services, ", "))
	}
	for _, p := range g.Peers {
		var joins []string
		for _, j := range p.RetryJoin {
			joins = append(joins, j.Text)
		}
		pairs = append(pairs, "peer."+string(p.Region)+".retry_join", strings.Join(joins, ", "))
	}
	return pairs
}

// shortDuration writes a duration as one would in a file: "24h", not "24h0m0s".
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (c *cli) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use: "reload", Short: "Let the gateway read gateway.hcl again", Args: takes(0, 0),
		Long: `Let the gateway read its configuration again. What is new is opened before what was is closed, and a file of the access
log is opened anew. A file with errors, or an address that somebody else has, leaves the running configuration alone, and the errors are
shown here. What only a restart applies is named.`,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, _ []string) error {
			res, err := gw.Reload(ctx, &admin.ReloadRequest{})
			if err != nil {
				return err
			}
			err = c.emit(answer{value: res, names: res.Changed, table: func(s *screen) {
				switch {
				case len(res.Changed)+len(res.Restart) == 0:
					s.line("%s nothing changed, config %d", s.paint(good, "✓"), res.Generation)
				case len(res.Changed) > 0:
					s.line("%s config %d is in force: %s", s.paint(good, "✓"), res.Generation, strings.Join(res.Changed, ", "))
				}
				if len(res.Restart) > 0 {
					s.line("%s changed, but only a restart applies them: %s", s.paint(warn, "!"), strings.Join(res.Restart, ", "))
				}
			}})
			c.next("tradewind status")
			return err
		}),
	}
}

func (c *cli) logLevelCommand() *cobra.Command {
	levels := []string{"debug", "info", "warn", "error"}
	return &cobra.Command{
		Use: "log-level [LEVEL]", Short: "Show or set the level of the gateway's log", Args: takes(0, 1), ValidArgs: levels,
		Long: "Show the level of the gateway's log, or set it to debug, info, warn or error until the next restart or reload.",
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			request := &admin.LogLevelRequest{}
			if len(args) > 0 {
				var level slog.Level
				if err := level.UnmarshalText([]byte(args[0])); err != nil {
					return usage(fmt.Sprintf("level %q is unknown", args[0]), "use "+strings.Join(levels, ", "))
				}
				request.Level = strings.ToLower(args[0])
			}
			res, err := gw.LogLevel(ctx, request)
			if err != nil {
				return err
			}
			if request.Level != "" {
				c.say("the log's level was %s", res.Previous)
				if res.Level == "debug" {
					c.next("tradewind log-level %s   (when you have seen enough)", res.Previous)
				}
			}
			return c.emit(answer{value: res, names: []string{res.Level}, table: func(s *screen) { s.line("%s", res.Level) }})
		}),
	}
}
