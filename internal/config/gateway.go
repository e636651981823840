package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Gateway is the configuration of one gateway process, complete and valid. Two equal values mean the same process.
type Gateway struct {
	Region       federation.Region
	TrustDomain  spiffeid.TrustDomain
	Name         string // of this gateway among the region's; part of its identity
	DataDir      string
	MeshListen   string   // UDP and TCP address that peers' gateways dial
	MeshLanes    []string // what may be used between gateways: "quic", "tcp"; sorted
	Advertise    []string // addresses put into peering tokens; empty: those of the host's interfaces
	LocalListen  string   // loopback TCP for workloads that bring an SVID; empty: off
	AdminSocket  string
	AdminListen  string   // loopback TCP, token required; empty: off
	AdminGroup   string   // members may use the socket besides root and the gateway's user
	KeyHosts     []string // that keys of jwt resources may be fetched from, sorted: "HOST" or "HOST:PORT"; empty: none
	AccessLog    string   // "stdout", "off" or a file
	ResourcesDir string   // watched; empty: none
	Sources      []FileSource
	Providers    []Provider
	Location     Location      // where the process runs
	Peers        []Peer        // whose gateways' addresses are looked up
	MaxStale     time.Duration // how long imports of a silent peer stay usable
	DrainTimeout time.Duration // how long SIGTERM waits for open connections
	LogLevel     slog.Level
	LogFormat    string // "json" or "text"

	Files []string // the files it was read from
}

// FileSource is a watched file or directory that lists instances.
type FileSource struct {
	Name string
	Path string
}

// RestartOnly names the settings in which a and b differ and that a running gateway cannot change.
func RestartOnly(a, b *Gateway) []string {
	return differing(map[string]bool{
		"region": a.Region == b.Region, "trust_domain": a.TrustDomain == b.TrustDomain, "name": a.Name == b.Name,
		"data_dir": a.DataDir == b.DataDir, "mesh.listen": a.MeshListen == b.MeshListen,
		"mesh.lanes":   slices.Equal(a.MeshLanes, b.MeshLanes),
		"admin.socket": a.AdminSocket == b.AdminSocket, "admin.group": a.AdminGroup == b.AdminGroup,
		"location": a.Location == b.Location, "log.format": a.LogFormat == b.LogFormat,
	})
}

// Reloadable names the settings in which a and b differ and that a running gateway can change.
func Reloadable(a, b *Gateway) []string {
	return differing(map[string]bool{
		"mesh.advertise": slices.Equal(a.Advertise, b.Advertise), "resources_dir": a.ResourcesDir == b.ResourcesDir,
		"source": slices.Equal(a.Sources, b.Sources), "provider": reflect.DeepEqual(a.Providers, b.Providers),
		"drain_timeout": a.DrainTimeout == b.DrainTimeout, "log.level": a.LogLevel == b.LogLevel, "peer": reflect.DeepEqual(a.Peers, b.Peers),
		"jwks.hosts": slices.Equal(a.KeyHosts, b.KeyHosts), "admin.listen": a.AdminListen == b.AdminListen,
		"local.listen": a.LocalListen == b.LocalListen, "access_log": a.AccessLog == b.AccessLog, "max_stale": a.MaxStale == b.MaxStale,
	})
}

// Merge returns running with the reloadable settings of next.
func Merge(running, next *Gateway) *Gateway {
	out := *running
	out.Advertise, out.ResourcesDir, out.Sources = next.Advertise, next.ResourcesDir, next.Sources
	out.Providers, out.DrainTimeout, out.LogLevel, out.Files = next.Providers, next.DrainTimeout, next.LogLevel, next.Files
	out.Peers, out.KeyHosts, out.MaxStale = next.Peers, next.KeyHosts, next.MaxStale
	out.AdminListen, out.LocalListen, out.AccessLog = next.AdminListen, next.LocalListen, next.AccessLog
	return &out
}

func differing(same map[string]bool) []string {
	var names []string
	for name, equal := range same {
		if !equal {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// file is gateway.hcl as HCL reads it.
type file struct {
	Region       string          `hcl:"region"`
	TrustDomain  string          `hcl:"trust_domain,optional"`
	Name         string          `hcl:"name,optional"`
	DataDir      string          `hcl:"data_dir,optional"`
	AccessLog    string          `hcl:"access_log,optional"`
	ResourcesDir string          `hcl:"resources_dir,optional"`
	MaxStale     string          `hcl:"max_stale,optional"`
	DrainTimeout string          `hcl:"drain_timeout,optional"`
	Mesh         *meshBlock      `hcl:"mesh,block"`
	Local        *localBlock     `hcl:"local,block"`
	Admin        *adminBlock     `hcl:"admin,block"`
	Log          *logBlock       `hcl:"log,block"`
	Sources      []fileSource    `hcl:"source,block"`
	Providers    []providerBlock `hcl:"provider,block"`
	Location     *locationBlock  `hcl:"location,block"`
	Peers        []peerBlock     `hcl:"peer,block"`
	JWKS         *jwksBlock      `hcl:"jwks,block"`
}

type meshBlock struct {
	Listen    string   `hcl:"listen,optional"`
	Advertise []string `hcl:"advertise,optional"`
	Lanes     []string `hcl:"lanes,optional"`
}

type localBlock struct {
	Listen string `hcl:"listen"`
}

type adminBlock struct {
	Socket string  `hcl:"socket,optional"`
	Listen *string `hcl:"listen,optional"`
	Group  string  `hcl:"group,optional"`
}

type logBlock struct {
	Level  string `hcl:"level,optional"`
	Format string `hcl:"format,optional"`
}

type fileSource struct {
	Type string `hcl:"type,label"`
	Name string `hcl:"name,label"`
	Path string `hcl:"path,optional"`
}

// Load reads the file or directory path (every *.hcl in it, in name order) and returns the complete configuration. The error
// shows everything that is wrong, in every file; nothing has been started or changed.
func Load(path string) (*Gateway, error) {
	names, err := configFiles(path)
	if err != nil {
		return nil, err
	}
	parser := hclparse.NewParser()
	var files []*hcl.File
	var diags hcl.Diagnostics
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			return nil, &federation.Diagnostic{Code: "TW-1002", What: "cannot read the configuration " + name, Why: err.Error(),
				Fix: "let the gateway's user read it", Err: err}
		}
		if bad := notText(name, content); bad != nil {
			diags = append(diags, bad)
			continue
		}
		f, more := parser.ParseHCL(content, name)
		diags = append(diags, more...)
		files = append(files, f)
	}
	g := &Gateway{}
	if !diags.HasErrors() { // what a file means is known only once all of it was understood
		var raw file
		diags = append(diags, gohcl.DecodeBody(hcl.MergeFiles(files), nil, &raw)...)
		hintResources(diags)
		b := builder{files: files}
		g = b.build(raw)
		diags = append(diags, b.besides(diags)...)
	}
	if err := invalid("TW-1001", path+" is not valid", "correct the lines shown; nothing was started or changed", parser.Files(), diags); err != nil {
		return nil, err
	}
	g.Files = names
	return g, nil
}

func configFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, &federation.Diagnostic{Code: "TW-1002", What: "cannot read the configuration " + path, Why: err.Error(),
			Fix: "write one with: tradewind init REGION", Err: err}
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	names, err := filepath.Glob(filepath.Join(path, "*.hcl"))
	if err == nil && len(names) == 0 {
		err = errors.New("the directory holds no *.hcl file")
	}
	if err != nil {
		return nil, &federation.Diagnostic{Code: "TW-1002", What: "cannot read the configuration " + path, Why: err.Error(),
			Fix: "write one with: tradewind init REGION --dir " + path, Err: err}
	}
	return names, nil
}

// hintResources tells those who put a resource into gateway.hcl where it belongs.
func hintResources(diags hcl.Diagnostics) {
	for _, d := range diags {
		for _, kind := range federation.Kinds() {
			if d.Summary == "Unsupported block type" && strings.Contains(d.Detail, fmt.Sprintf("%q", kind)) {
				d.Detail += " Resources live apart from gateway.hcl: put them into a file for \"tradewind apply -f\", or into resources_dir."
			}
		}
	}
}

// builder turns the file's words into values and collects what is wrong with them.
type builder struct {
	files []*hcl.File
	diags hcl.Diagnostics
}

// fail notes that the attribute at path ("region", "mesh.listen") has a wrong value.
func (b *builder) fail(path string, err error) {
	if err != nil {
		b.diags = append(b.diags, problem("Invalid value for "+path, err, b.find(path)))
	}
}

// besides returns the complaints that seen, the errors of reading the file, do not account for: a value that was not read looks
// empty, and nothing is to be said of that.
func (b *builder) besides(seen hcl.Diagnostics) hcl.Diagnostics {
	if !seen.HasErrors() {
		return b.diags
	}
	return slices.DeleteFunc(b.diags, func(d *hcl.Diagnostic) bool {
		return d.Subject == nil || slices.ContainsFunc(seen, func(s *hcl.Diagnostic) bool { return s.Subject != nil && s.Subject.Overlaps(*d.Subject) })
	})
}

// find returns the range of the attribute at path, or nil when no file has it.
func (b *builder) find(path string) *hcl.Range {
	parts := strings.Split(path, ".")
	for _, f := range b.files {
		body, ok := f.Body.(*hclsyntax.Body)
		for _, part := range parts[:len(parts)-1] {
			if ok {
				body, ok = childBlock(body, part)
			}
		}
		if !ok {
			continue
		}
		if attr := body.Attributes[parts[len(parts)-1]]; attr != nil {
			r := attr.Range()
			return &r
		}
	}
	return nil
}

func childBlock(body *hclsyntax.Body, name string) (*hclsyntax.Body, bool) {
	kind, label, _ := strings.Cut(name, "/")
	for _, block := range body.Blocks {
		if block.Type == kind && (label == "" || label == strings.Join(block.Labels, "/")) {
			return block.Body, true
		}
	}
	return nil, false
}

var gatewayName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,63}$`)

func (b *builder) build(raw file) *Gateway {
	g := &Gateway{
		Name:         cmp.Or(raw.Name, hostName()),
		DataDir:      cmp.Or(raw.DataDir, DefaultDataDir()),
		MeshListen:   ":8443",             // one port for all, UDP and TCP; above 1024 so that no privilege is needed
		MeshLanes:    slices.Clone(lanes), // TCP stands by for networks that block UDP, and takes bulk transfers
		LocalListen:  "127.0.0.1:15001",   // where Istio's users expect the outbound listener
		AdminListen:  "127.0.0.1:8480",
		AccessLog:    cmp.Or(raw.AccessLog, "stdout"),
		ResourcesDir: raw.ResourcesDir,
		LogFormat:    "json",
	}
	region, err := federation.ParseRegion(raw.Region)
	b.fail("region", err)
	g.Region = region
	if !gatewayName.MatchString(g.Name) {
		b.fail("name", fmt.Errorf("gateway name %q: use 1-63 letters, digits, dots, hyphens or underscores", g.Name))
	}
	g.TrustDomain = federation.DefaultTrustDomain(region)
	if raw.TrustDomain != "" {
		g.TrustDomain, err = spiffeid.TrustDomainFromString(raw.TrustDomain)
		b.fail("trust_domain", err)
	}
	g.MaxStale = b.duration("max_stale", raw.MaxStale, 24*time.Hour)               // a night's outage of a peer must not lose its services
	g.DrainTimeout = b.duration("drain_timeout", raw.DrainTimeout, 30*time.Second) // what orchestrators grant before they kill
	b.listeners(g, raw)
	b.logging(g, raw.Log)
	b.sources(g, raw.Sources)
	b.providers(g, raw.Providers)
	b.location(g, raw.Location)
	b.peers(g, raw.Peers)
	b.keyHosts(g, raw.JWKS)
	return g
}

func (b *builder) duration(path, text string, unset time.Duration) time.Duration {
	if text == "" {
		return unset
	}
	var d federation.Duration
	b.fail(path, d.UnmarshalText([]byte(text)))
	return d.D()
}

// lanes are the values of mesh.lanes.
var lanes = []string{"quic", "tcp"}

func onlyLanes(list []string) error {
	for _, l := range list {
		if !slices.Contains(lanes, l) {
			return fmt.Errorf("%q is not a lane: use \"quic\", \"tcp\" or both", l)
		}
	}
	if len(list) == 0 {
		return errors.New("without a lane no flow gets to a peer: use \"quic\", \"tcp\" or both")
	}
	return nil
}

func (b *builder) listeners(g *Gateway, raw file) {
	if m := raw.Mesh; m != nil {
		g.MeshListen = cmp.Or(m.Listen, g.MeshListen)
		for _, a := range m.Advertise {
			host, port, err := net.SplitHostPort(a)
			if err == nil && (host == "" || port == "") {
				err = fmt.Errorf("advertised address %q needs a host and a port", a)
			}
			b.fail("mesh.advertise", err)
		}
		g.Advertise = m.Advertise
		if m.Lanes != nil {
			g.MeshLanes = slices.Compact(slices.Sorted(slices.Values(m.Lanes)))
			b.fail("mesh.lanes", onlyLanes(g.MeshLanes))
		}
	}
	_, _, err := net.SplitHostPort(g.MeshListen)
	b.fail("mesh.listen", err)
	if raw.Local != nil {
		g.LocalListen = raw.Local.Listen
	}
	if g.LocalListen != "" {
		b.fail("local.listen", onThisHost(g.LocalListen, "workloads reach the mesh through the gateway on their own host"))
	}
	g.AdminSocket = filepath.Join(g.DataDir, "admin.sock")
	if a := raw.Admin; a != nil {
		g.AdminSocket = cmp.Or(a.Socket, g.AdminSocket)
		g.AdminGroup = a.Group
		if a.Listen != nil {
			g.AdminListen = *a.Listen
		}
	}
	if len(g.AdminSocket) > 107 {
		b.fail("admin.socket", fmt.Errorf("socket path has %d octets, the kernel allows 107: set admin.socket to a shorter one", len(g.AdminSocket)))
	}
	if g.AdminListen != "" {
		err := onThisHost(g.AdminListen, "the admin API is not encrypted, and its token would cross the network")
		if err == nil && strings.HasPrefix(g.AdminListen, "unix:") {
			err = errors.New("admin.listen is a loopback address; the socket has its own setting")
		}
		b.fail("admin.listen", err)
	}
}

// onThisHost returns nil for a loopback address or a socket, and otherwise an error that says why it must be one.
func onThisHost(listen, reason string) error {
	_, _, err := federation.ParseListen(listen)
	if host, _, split := net.SplitHostPort(listen); err != nil && split == nil {
		if ip, _ := netip.ParseAddr(host); host == "" || ip.IsValid() && !ip.IsLoopback() {
			return fmt.Errorf("listen %q is not a loopback address: %s; use 127.0.0.1 or ::1", listen, reason)
		}
	}
	return err
}

func (b *builder) logging(g *Gateway, l *logBlock) {
	if l == nil {
		return
	}
	if l.Level != "" {
		b.fail("log.level", g.LogLevel.UnmarshalText([]byte(l.Level)))
	}
	g.LogFormat = cmp.Or(l.Format, g.LogFormat)
	if g.LogFormat != "json" && g.LogFormat != "text" {
		b.fail("log.format", fmt.Errorf("log format %q is unknown: use json or text", g.LogFormat))
	}
}

func (b *builder) sources(g *Gateway, raw []fileSource) {
	seen := map[string]bool{}
	for _, s := range raw {
		at := "source/" + s.Type + "/" + s.Name + ".path"
		if s.Path == "" && s.Type == "file" {
			b.fail(at, fmt.Errorf("source \"file\" %q has no path", s.Name))
			continue
		}
		switch {
		case s.Type != "file":
			b.fail(at, fmt.Errorf("source type %q is unknown: this gateway knows \"file\"", s.Type))
		case !gatewayName.MatchString(s.Name):
			b.fail(at, fmt.Errorf("source name %q: use 1-63 letters, digits, dots, hyphens or underscores", s.Name))
		case seen[s.Name]:
			b.fail(at, fmt.Errorf("source %q is declared twice", s.Name))
		case !filepath.IsAbs(s.Path):
			b.fail(at, fmt.Errorf("source path %q is not absolute: the gateway may be started from anywhere", s.Path))
		default:
			g.Sources = append(g.Sources, FileSource{Name: s.Name, Path: s.Path})
		}
		seen[s.Name] = true
	}
}

// SystemDataDir is where the gateway of a host, run by root or an init system, keeps its state.
const SystemDataDir = "/var/lib/tradewind"

// DefaultDataDir is where a gateway keeps its state when nothing else is said: /var/lib/tradewind for root, else the user's
// state directory.
func DefaultDataDir() string {
	if os.Geteuid() == 0 {
		return SystemDataDir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return SystemDataDir
	}
	return filepath.Join(cmp.Or(os.Getenv("XDG_STATE_HOME"), filepath.Join(home, ".local", "state")), "tradewind")
}

// known lists the keys of a table, for a message.
func known[V any](table map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(table)), ", ")
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil || !gatewayName.MatchString(name) {
		return "gateway"
	}
	return name
}
