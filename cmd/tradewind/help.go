package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

var codeForm = regexp.MustCompile(`^(?i:tw-?)?([0-9]{4})$`)

// helpCommand replaces cobra's: it explains codes too, without a gateway or a network.
func (c *cli) helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND | CODE | codes]", Short: "Explain a command, or a code such as TW-8001", GroupID: "look",
		Example: "  tradewind help peer establish\n  tradewind help TW-8001\n  tradewind help codes",
		ValidArgsFunction: func(_ *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
			var found []string
			for _, h := range federation.AllHelp() {
				found = append(found, string(h.Code)+"\t"+h.Title)
			}
			for _, sub := range root.Commands() {
				if sub.IsAvailableCommand() {
					found = append(found, sub.Name()+"\t"+sub.Short)
				}
			}
			return starting(found, start), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return root.Help()
			}
			if len(args) == 1 && args[0] == "codes" {
				return c.allCodes()
			}
			if m := codeForm.FindStringSubmatch(args[0]); m != nil {
				return c.explainCode(federation.Code("TW-" + m[1]))
			}
			cmd, rest, err := root.Find(args)
			if err != nil || cmd == root || len(rest) > 0 {
				return &exit{exitUsage, &federation.Diagnostic{Code: "TW-8024", What: fmt.Sprintf("there is no command %q",
					strings.Join(args, " ")),
					Why: "no command of this version has that name", Fix: "see: tradewind help"}}
			}
			return cmd.Help()
		},
	}
}

func (c *cli) explainCode(code federation.Code) error {
	h, ok := federation.Help(code)
	if !ok {
		return &exit{exitUsage, &federation.Diagnostic{Code: "TW-8024", What: fmt.Sprintf("there is no code %s", code),
			Why: "this version does not know it", Fix: "see all codes: tradewind help codes"}}
	}
	return c.emit(answer{value: helpOf(h), names: []string{string(h.Code)}, table: func(s *screen) {
		s.line("%s  %s\n", s.paint(strong, string(h.Code)), h.Title)
		s.line("%s", reflow(h.Text))
	}})
}

const textWidth = 96 // comfortable to read, and fits beside something else

// reflow fills paragraphs to textWidth; empty lines stay, and so do indented ones.
func reflow(text string) string {
	var b strings.Builder
	at := 0 // characters on the present line
	for i, line := range strings.Split(text, "\n") {
		if line == "" || strings.HasPrefix(line, " ") {
			if i > 0 {
				b.WriteString("\n")
			}
			b.WriteString(line)
			at = textWidth // what follows starts a line of its own
			continue
		}
		for _, word := range strings.Fields(line) {
			n := utf8.RuneCountInString(word)
			switch {
			case at == 0:
			case at+1+n > textWidth:
				b.WriteString("\n")
				at = 0
			default:
				b.WriteString(" ")
				at++
			}
			b.WriteString(word)
			at += n
		}
	}
	return b.String()
}

type codeHelp struct {
	Code  federation.Code `json:"code"`
	Title string          `json:"title"`
	Text  string          `json:"text"`
}

func helpOf(h federation.CodeHelp) codeHelp { return codeHelp{h.Code, h.Title, h.Text} }

func (c *cli) allCodes() error {
	var rows [][]cell
	var all []codeHelp
	var names []string
	list := federation.AllHelp()
	slices.SortFunc(list, func(a, b federation.CodeHelp) int { return strings.Compare(string(a.Code), string(b.Code)) })
	for _, h := range list {
		rows = append(rows, text(string(h.Code), h.Title))
		all = append(all, helpOf(h))
		names = append(names, string(h.Code))
	}
	return c.emit(answer{value: all, items: listOf(all), names: names, table: func(s *screen) { s.table([]string{"CODE", "MEANS"}, rows) }})
}

// version is set by the release build with -ldflags "-X main.version=v1.2.3".
var version string

// build describes this program.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Built    string `json:"built,omitempty"` // time of the commit
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func readBuild() build {
	b := build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.time":
				b.Built = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
		if b.Version == "" && info.Main.Version != "(devel)" {
			b.Version = info.Main.Version
		}
	}
	if b.Version == "" {
		b.Version = "dev"
	}
	return b
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of this program", Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			return c.emit(answer{value: b, names: []string{b.Version}, table: func(s *screen) {
				commit := ""
				if len(b.Commit) >= 12 {
					commit = ", commit " + b.Commit[:12]
				}
				if b.Modified {
					commit += " with changes"
				}
				s.line("tradewind %s%s, %s %s", b.Version, commit, b.Go, b.Platform)
			}})
		},
	}
}

func (c *cli) manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the manual pages to a directory", Args: takes(1, 1),
		Example: "  tradewind man /usr/local/share/man/man1",
		RunE: func(_ *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fileError("cannot make "+args[0], err)
			}
			// A fixed date keeps builds reproducible; the version says how old the page is.
			date := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			header := &doc.GenManHeader{Section: "1", Source: "tradewind " + readBuild().Version, Manual: "Tradewind Manual", Date: &date}
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fileError("cannot write the manual pages", err)
			}
			c.say("wrote the manual pages to %s", args[0])
			c.next("man -l %s/tradewind.1", args[0])
			return nil
		},
	}
}

// completionTimeout bounds how long a shell hangs on a tab.
const completionTimeout = time.Second

// complete offers what find returns. A gateway that does not answer offers nothing: a shell has no place for an error.
func (c *cli) complete(cmd *cobra.Command, start string, find online, found *[]string) ([]string, cobra.ShellCompDirective) {
	cmd.SetContext(orBackground(cmd.Context()))
	c.flags.timeout = completionTimeout
	if err := c.withGateway(completionTimeout, find)(cmd, nil); err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return starting(*found, start), cobra.ShellCompDirectiveNoFileComp
}

func orBackground(ctx context.Context) context.Context {
	if ctx == nil {
		return context.Background()
	}
	return ctx
}

func starting(all []string, start string) []string {
	return slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, start) })
}

func (c *cli) completePeers(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	return c.complete(cmd, start, func(ctx context.Context, gw *admin.Client, _ []string) error {
		res, err := gw.PeerList(ctx, &admin.PeerListRequest{})
		if err != nil {
			return err
		}
		for _, p := range res.Peerings {
			found = append(found, string(p.Region)+"\t"+p.State.String())
		}
		return nil
	}, &found)
}

// completePeerFlag is completePeers for a flag, whatever arguments there are.
func (c *cli) completePeerFlag(cmd *cobra.Command, _ []string, start string) ([]string, cobra.ShellCompDirective) {
	return c.completePeers(cmd, nil, start)
}

func (c *cli) completeServices(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	return c.complete(cmd, start, func(ctx context.Context, gw *admin.Client, _ []string) error {
		res, err := gw.ListServices(ctx, &admin.ListServicesRequest{})
		if err != nil {
			return err
		}
		for _, s := range res.Services {
			var homes []federation.Region
			for _, h := range s.Homes {
				homes = append(homes, h.Region)
			}
			found = append(found, s.Name.String()+"\t"+joined(homes))
		}
		return nil
	}, &found)
}

func (c *cli) completeResources(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
	var found []string
	switch len(args) {
	case 0:
		for _, kind := range federation.Kinds() {
			found = append(found, string(kind))
		}
		return starting(found, start), cobra.ShellCompDirectiveNoFileComp
	case 1:
		kind, err := parseKind(args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.complete(cmd, start, func(ctx context.Context, gw *admin.Client, _ []string) error {
			res, err := gw.ListResources(ctx, &admin.ListResourcesRequest{Kinds: []federation.Kind{kind}})
			if err != nil {
				return err
			}
			for _, r := range res.Resources {
				found = append(found, r.Name+"\t"+summary(r.Spec))
			}
			return nil
		}, &found)
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
