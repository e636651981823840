package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitCheck       = 3
	exitDegraded    = 4
	exitUnreachable = 5
	exitDenied      = 6
	exitInterrupted = 130 // as shells say of a program that SIGINT ended
)

// cli is one run of the program: the world it sees and its global flags.
type cli struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	now      func() time.Time

	inTTY, outTTY, errTTY bool
	columns               int // of standard error's terminal; 0 if it is none

	flags   flags
	started bool // arguments and flags were good; errors from here on are not about usage
}

type flags struct {
	socket, address, tokenFile, dataDir string
	output, color                       string
	timeout                             time.Duration
	noInput                             bool
}

// exit ends the program with a code of its own. With no error inside, everything has been said.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

// execute runs the command line args and returns the exit code.
func (c *cli) execute(ctx context.Context, args []string) int {
	root := c.root()
	root.SetArgs(append([]string{}, args...)) // for nil, cobra would take those of the process
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !c.started {
		c.flags.output = outputIn(args, c.flags.output)
	}
	if !c.started && federation.CodeOf(err) == "" { // cobra's own: arguments, flags, unknown commands
		err = usage(strings.TrimSpace(err.Error()), fmt.Sprintf("write: %s   (more: %s --help)", cmd.UseLine(), cmd.CommandPath()))
	}
	c.printError(err)
	return exitCode(err)
}

// outputIn finds the output format in args that were not all read, because one before it was wrong.
func outputIn(args []string, unset string) string {
	for i, arg := range args {
		switch value, found := strings.CutPrefix(arg, "--output="); {
		case found:
			return value
		case (arg == "-o" || arg == "--output") && i+1 < len(args):
			return args[i+1]
		}
	}
	return unset
}

// exitCode says which exit code stands for err.
func exitCode(err error) int {
	var e *exit
	switch {
	case errors.As(err, &e):
		return e.code
	case federation.CodeOf(err) == "TW-8015":
		return exitInterrupted
	case errors.Is(err, admin.ErrUnreachable), errors.Is(err, admin.ErrTimeout):
		return exitUnreachable
	case slices.Contains([]federation.Code{"TW-1001", "TW-1002", "TW-1003", "TW-1004", "TW-8020"}, federation.CodeOf(err)):
		return exitUsage
	}
	return exitFailed
}

// usage is an error about how the program was called.
func usage(why, fix string) error {
	return &exit{exitUsage, &federation.Diagnostic{Code: "TW-8020", What: "the command was not used correctly", Why: why,
		Fix: cmp.Or(fix, "see: tradewind help")}}
}

// root builds the command tree.
func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tradewind",
		Short: "Federate services between clouds",
		Long: `Tradewind federates services between clouds and data centres. Regions peer with each other, show each other the services
they export, and carry connections between them over mutually authenticated QUIC. Each region decides for itself who may call.

Start with "tradewind init REGION" and "tradewind check". "tradewind help CODE" explains any code such as TW-8001, offline.`,
		SilenceErrors: true, SilenceUsage: true, SuggestionsMinimumDistance: 2,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.globalFlags(root)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := c.checkFlags(cmd); err != nil {
			return err
		}
		c.started = true
		return nil
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(err.Error(), "see: "+cmd.CommandPath()+" --help")
	})
	for _, g := range []struct{ id, title string }{
		{"start", "Start:"}, {"look", "Look:"}, {"change", "Change:"}, {"process", "Gateway and configuration:"},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
	}
	add := func(group string, commands ...*cobra.Command) {
		for _, cmd := range commands {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add("start", c.demoCommand(), c.initCommand(), c.peerCommand())
	add("look", c.statusCommand(), c.checkCommand(), c.explainCommand(), c.pingCommand(), c.servicesCommand(), c.routeCommand(), c.failoverCommand(), c.ingressCommand(), c.getCommand(),
		c.sourceCommand(), c.providerCommand())
	add("change", c.planCommand(), c.applyCommand(), c.deleteCommand(), c.intentionCommand(), c.instanceCommand(), c.certCommand())
	add("process", c.configCommand(), c.reloadCommand(), c.logLevelCommand(), c.versionCommand(), c.manCommand(root))
	root.AddCommand(c.demoServiceCommand())
	root.SetHelpCommand(c.helpCommand(root))
	reflowAll(root)
	return root
}

// reflowAll fills the long texts of cmd and all below it to one width, however the source breaks its lines.
func reflowAll(cmd *cobra.Command) {
	cmd.Long = reflow(cmd.Long)
	for _, sub := range cmd.Commands() {
		reflowAll(sub)
	}
}

func (c *cli) globalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&c.flags.socket, "socket", "", "gateway's admin socket (TRADEWIND_SOCKET; default: admin.sock in the data directory)")
	f.StringVar(&c.flags.address, "address", "", "gateway's admin address instead of a socket, such as 127.0.0.1:8480 (TRADEWIND_ADDRESS)")
	f.StringVar(&c.flags.tokenFile, "token-file", "",
		"file with the token for --address (TRADEWIND_TOKEN_FILE; default: admin.token in the data directory)")
	f.StringVar(&c.flags.dataDir, "data-dir", "",
		"gateway's data directory (TRADEWIND_DATA_DIR; default: /var/lib/tradewind, or the user's state directory)")
	f.StringVarP(&c.flags.output, "output", "o", "table", "table, wide, json, jsonl or name; also hcl for get")
	f.StringVar(&c.flags.color, "color", "auto", "auto, always or never; NO_COLOR is honoured")
	f.DurationVar(&c.flags.timeout, "timeout", 0, "how long to wait for the gateway (default 10s, 2m where another region has to act)")
	f.BoolVar(&c.flags.noInput, "no-input", false, "never ask: what needs a confirmation fails without --yes")
	complete := func(flag string, values ...string) {
		// An error here is a flag that does not exist: a defect that every test of completion would show.
		_ = root.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	complete("output", "table", "wide", "json", "jsonl", "name")
	complete("color", "auto", "always", "never")
}

func (c *cli) checkFlags(cmd *cobra.Command) error {
	formats := []string{"table", "wide", "json", "jsonl", "name"}
	if cmd.Annotations["hcl"] != "" {
		formats = append(formats, "hcl")
	}
	if !slices.Contains(formats, c.flags.output) {
		return usage(fmt.Sprintf("output %q is unknown", c.flags.output), "use -o "+strings.Join(formats, ", "))
	}
	if !slices.Contains([]string{"auto", "always", "never"}, c.flags.color) {
		return usage(fmt.Sprintf("color %q is unknown", c.flags.color), "use --color auto, always or never")
	}
	if c.flags.timeout < 0 {
		return usage("timeout is negative", "use a duration such as --timeout 30s")
	}
	return nil
}

// target finds the gateway: flags before environment before the default.
func (c *cli) target() (admin.Target, error) {
	dir := cmp.Or(c.flags.dataDir, c.env("TRADEWIND_DATA_DIR"), config.DefaultDataDir())
	// A flag of one kind beats the environment of the other.
	address := c.flags.address
	if address == "" && c.flags.socket == "" {
		address = c.env("TRADEWIND_ADDRESS")
	}
	if address == "" {
		socket := cmp.Or(c.flags.socket, c.env("TRADEWIND_SOCKET"))
		if socket == "" && c.flags.dataDir == "" && c.env("TRADEWIND_DATA_DIR") == "" {
			dir = likelyDir(dir, config.SystemDataDir)
		}
		return admin.Target{Socket: cmp.Or(socket, filepath.Join(dir, "admin.sock"))}, nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return admin.Target{}, usage(fmt.Sprintf("address %q is no host and port", address), "write such as --address 127.0.0.1:8480")
	}
	file := cmp.Or(c.flags.tokenFile, c.env("TRADEWIND_TOKEN_FILE"), filepath.Join(dir, admin.TokenFile))
	token, err := admin.ReadToken(file)
	return admin.Target{Address: address, Token: token}, err
}

// likelyDir chooses between a user's own gateway and the host's: own, unless there is none and the host has one. A socket that
// this user may not even look at counts: the message says what to do about it.
func likelyDir(own, host string) string {
	if _, err := os.Stat(filepath.Join(own, "admin.sock")); err == nil {
		return own
	}
	if _, err := os.Stat(filepath.Join(host, "admin.sock")); err == nil || errors.Is(err, fs.ErrPermission) {
		return host
	}
	return own
}

// The time a command waits unless --timeout says otherwise.
const (
	usualTimeout = 10 * time.Second // a local answer takes milliseconds; checks ask peers
	peerTimeout  = 2 * time.Minute  // another region, or a person there, has to act
)

// online is a command's body that talks to the gateway.
type online func(ctx context.Context, gw *admin.Client, args []string) error

// withGateway makes a cobra body of f: it finds the gateway and bounds the time of each call, but not the time that somebody
// thinks about a question.
func (c *cli) withGateway(timeout time.Duration, f online) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		target, err := c.target()
		if err != nil {
			return err
		}
		target.Timeout = cmp.Or(c.flags.timeout, timeout)
		gw := admin.NewClient(target)
		defer gw.Close()
		return f(cmd.Context(), gw, args)
	}
}

// group is a command that only holds others.
func group(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: knownCommand, SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(commands...)
	return cmd
}

// knownCommand refuses what is no command of cmd, and says what might have been meant.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	why := fmt.Sprintf("there is no command %q", cmd.CommandPath()+" "+args[0])
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		return usage(why, "did you mean "+cmd.CommandPath()+" "+strings.Join(similar, ", or ")+"?")
	}
	return usage(why, "see: "+cmd.CommandPath()+" --help")
}

// takes refuses any other number of arguments than least to most.
func takes(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		want := count(most, "argument")
		switch {
		case most == 0:
			want = "no argument"
		case least != most:
			want = "at most " + want
		}
		return fmt.Errorf("%s takes %s and was given %d", cmd.CommandPath(), want, len(args))
	}
}

// parseRegion reads a region from the command line.
func parseRegion(s string) (federation.Region, error) {
	region, err := federation.ParseRegion(s)
	if err != nil {
		return "", usage(err.Error(), "write a region's name, such as aws-us-east-1")
	}
	return region, nil
}

// parseService reads a service's name from the command line.
func parseService(s string) (federation.ServiceName, error) {
	name, err := federation.ParseServiceName(s)
	if err != nil {
		return federation.ServiceName{}, usage(err.Error(), "write a service's name, such as checkout or shop/checkout")
	}
	return name, nil
}
