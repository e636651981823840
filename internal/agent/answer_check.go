package agent

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/controlplane"
	"github.com/tradewind-mesh/tradewind/federation/peering"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// Check implements admin.Answers.
func (a *Agent) Check(_ context.Context, r *admin.CheckRequest) (*admin.CheckReport, error) {
	if r.Peer != "" {
		if _, err := a.peers.Show(r.Peer); err != nil {
			return nil, known(err)
		}
	}
	return a.runChecks(r.Peer), nil
}

// runChecks makes every check, or those about one peer.
func (a *Agent) runChecks(only federation.Region) *admin.CheckReport {
	began, cfg := time.Now(), a.cfg.Load()
	out := &admin.CheckReport{Region: cfg.Region, Gateway: cfg.Name, Version: a.opts.Version}
	if only == "" {
		out.Groups = append(out.Groups, group("process", a.checkProcess()), group("certificates", a.checkCertificates()),
			group("network", a.checkNetwork()), group("sources", a.checkSources()), group("services", a.checkServices()))
	}
	peers := a.peers.List()
	out.Peers = len(peers)
	var results []admin.CheckResult
	joins := a.joins.problems()
	for _, p := range peers {
		if only == "" || p.Region == only {
			results = append(results, a.checkPeer(p)...)
			if d, looked := joins[p.Region]; looked {
				results = append(results, judged(string(p.Region)+" addresses", admin.CheckWarn, d))
			}
		}
	}
	if len(results) > 0 {
		out.Groups = append(out.Groups, group("peers", results))
	}
	out.TookSeconds = admin.SecondsOf(time.Since(began))
	return out
}

func group(name string, results []admin.CheckResult) admin.CheckGroup {
	return admin.CheckGroup{Name: name, Results: results}
}

func pass(name string) admin.CheckResult {
	return admin.CheckResult{Name: name, Status: admin.CheckPass}
}

// judged passes when d is nil and otherwise has d's outcome.
func judged(name string, status admin.CheckStatus, d *federation.Diagnostic) admin.CheckResult {
	if d == nil {
		return pass(name)
	}
	return admin.Failed(name, status, d)
}

func (a *Agent) checkProcess() []admin.CheckResult {
	var results []admin.CheckResult
	var d *federation.Diagnostic
	if err := a.storeWorks(context.Background()); err != nil {
		d = &federation.Diagnostic{Code: "TW-8911", What: "the region's store cannot be read", Why: err.Error(), Fix: "look at the disk of " + a.opts.Config.DataDir}
	}
	results = append(results, judged("store", admin.CheckFail, cmp.Or(d, a.store.Failed())))
	results = append(results, judged("disk space", admin.CheckWarn, a.diskSpace()))
	status := admin.CheckFail
	if d := a.reloadProblem.Load(); d != nil && d.Code == "TW-1008" {
		status = admin.CheckWarn
	}
	results = append(results, judged("configuration", status, a.reloadProblem.Load()))
	results = append(results, judged("resources directory", admin.CheckFail, a.dirProblem.Load()))
	if left := a.unwatched(""); len(left) > 0 && a.cfg.Load().ResourcesDir == "" {
		results = append(results, admin.Failed("resources directory", admin.CheckWarn, &federation.Diagnostic{Code: "TW-1009",
			What: fmt.Sprintf("%s %s is in force and belongs to %q, which is no longer watched (%d such in all)", left[0].Kind, left[0].Name, left[0].Owner, len(left)),
			Why:  "resources_dir was removed from gateway.hcl, and absence deletes nothing",
			Fix:  fmt.Sprintf("set resources_dir again, or: tradewind delete %s %s --force", left[0].Kind, left[0].Name)}))
	}
	for _, l := range a.mesh.Listeners() {
		results = append(results, judged("upstream "+l.Upstream.Name, admin.CheckFail, l.Problem))
	}
	results = append(results, a.checkIngresses()...)
	for _, w := range a.resourceWarnings() {
		results = append(results, admin.Failed("resources", admin.CheckWarn, w))
	}
	return results
}

// leastDisk is how much room the store wants: some hundred times what a region's state takes.
const leastDisk = 64 << 20

func (a *Agent) diskSpace() *federation.Diagnostic {
	var fs unix.Statfs_t
	dir := a.opts.Config.DataDir
	if err := unix.Statfs(dir, &fs); err != nil {
		return &federation.Diagnostic{Code: "TW-8912", What: "the disk of " + dir + " cannot be looked at", Why: err.Error(), Fix: "check that it is mounted"}
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < leastDisk {
		return &federation.Diagnostic{Code: "TW-8912", What: fmt.Sprintf("%d MiB are free on the disk of %s", free>>20, dir),
			Why: "writes will fail when it is full; traffic goes on", Fix: "free some space"}
	}
	return nil
}

// resourceWarnings are what writing the resources as they are would be warned of.
func (a *Agent) resourceWarnings() []*federation.Diagnostic {
	plan, err := a.plane.Plan(context.Background(), controlplane.Change{Owner: "check", Put: a.plane.List(), Force: true})
	if err != nil {
		return nil // somebody is writing at this moment
	}
	return plan.Warnings
}

func (a *Agent) checkCertificates() []admin.CheckResult {
	s := a.trust.Status()
	var results []admin.CheckResult
	for _, r := range s.Roots {
		results = append(results, a.expires("CA", r.Expiry, "tradewind help TW-8913"))
	}
	results = append(results, a.expires("gateway", s.Gateway.Expiry, "it renews itself; see the log for why it did not"))
	for _, p := range s.Peers {
		results = append(results, a.expires("roots of "+string(p.Region), p.Expiry, "there: rotate the CA, or establish the peering again"))
	}
	for _, alarm := range s.Alarms {
		results = append(results, admin.Failed("trust", admin.CheckWarn, alarm))
	}
	return results
}

// expires warns of what is about to expire. Notice at half of a life is no warning: a gateway's certificate renews right then.
func (a *Agent) expires(name string, e trust.Expiry, fix string) admin.CheckResult {
	status := admin.CheckWarn
	switch e.Level {
	case trust.LevelCritical, trust.LevelExpired:
		status = admin.CheckFail
	case trust.LevelWarning:
	default:
		return pass(name)
	}
	return admin.Failed(name, status, &federation.Diagnostic{Code: "TW-8913", Fix: fix,
		What: fmt.Sprintf("the certificate of %s ends %s, %d %% of its life are left", name, e.NotAfter.UTC().Format(time.RFC3339), e.Left)})
}

// wantUDPBuffer is the receive buffer that quic-go asks for: about 40 ms of a gigabit link.
const wantUDPBuffer = 7 << 20

func (a *Agent) checkNetwork() []admin.CheckResult {
	var d *federation.Diagnostic
	if most, err := kernelNumber("/proc/sys/net/core/rmem_max"); err == nil && most < wantUDPBuffer {
		d = &federation.Diagnostic{Code: "TW-8914", What: fmt.Sprintf("UDP receive buffers are limited to %d KiB, %d KiB are wanted", most>>10, wantUDPBuffer>>10),
			Why: "bursts on fast links will be dropped", Fix: "sysctl -w net.core.rmem_max=7340032 net.core.wmem_max=7340032"}
	}
	results := []admin.CheckResult{judged("UDP buffers", admin.CheckWarn, d)}
	if len(a.addresses()) == 0 {
		results = append(results, admin.Failed("advertised address", admin.CheckWarn, &federation.Diagnostic{Code: "TW-8915",
			What: "peers have no address to dial this gateway by", Why: "the host has none but loopback", Fix: "set mesh.advertise in gateway.hcl"}))
	} else {
		results = append(results, pass("advertised address"))
	}
	for _, d := range a.tunnel.Troubles() {
		results = append(results, admin.Failed("lanes", admin.CheckWarn, d))
	}
	return results
}

func kernelNumber(path string) (int, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(content)))
}

// mostProblems is the most problems between sources that are told one by one: a whole source that is listed twice is one mistake.
const mostProblems = 10

func (a *Agent) checkSources() []admin.CheckResult {
	var results []admin.CheckResult
	for _, s := range a.reg.Sources() {
		var d *federation.Diagnostic
		if p := s.Problem; p != nil {
			last := "its last set, of " + age(s.LastComplete) + ", is in use"
			if s.LastComplete.IsZero() {
				last = "it has given no set yet"
			}
			d = &federation.Diagnostic{Code: p.Code, What: "source " + string(s.Name) + " cannot be read; " + last, Why: p.What + ": " + p.Why, Fix: p.Fix}
		}
		results = append(results, judged("source "+string(s.Name), admin.CheckFail, d))
		for _, p := range s.Problems {
			results = append(results, admin.Failed("source "+string(s.Name), admin.CheckWarn, p))
		}
	}
	for i, d := range a.reg.Problems() {
		if i == mostProblems {
			d = &federation.Diagnostic{Code: d.Code, What: "more instances are not used as they are reported", Fix: "tradewind instance list -o wide"}
		}
		results = append(results, admin.Failed("registry", admin.CheckWarn, d))
		if i == mostProblems {
			break
		}
	}
	return results
}

func age(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}

func (a *Agent) checkServices() []admin.CheckResult {
	view := a.plane.View()
	var results []admin.CheckResult
	if d := a.health.Problem(); d != nil {
		results = append(results, admin.Failed("health checks", admin.CheckWarn, d))
	}
	for _, name := range view.Local.Names() {
		healthy, total := view.Local.Service(name).Lane.Sum()
		var d *federation.Diagnostic
		if healthy == 0 {
			d = &federation.Diagnostic{Code: "TW-8917", What: fmt.Sprintf("service %v has no healthy instance here (0 of %d)", name, total),
				Why: a.firstReason(name), Fix: "tradewind services show " + name.String()}
		}
		results = append(results, judged(name.String(), admin.CheckWarn, d))
	}
	return results
}

// firstReason is why some instance of service is not passing.
func (a *Agent) firstReason(service federation.ServiceName) string {
	for _, i := range a.reg.Instances() {
		if i.Instance.Service == service && i.Reason != "" {
			return string(i.Instance.ID) + ": " + i.Reason
		}
	}
	return "no source lists an instance"
}

// checkPeer looks at one peering: its state, the way for traffic, how fresh its catalog is, and what was refused.
func (a *Agent) checkPeer(p peering.PeeringStatus) []admin.CheckResult {
	name := string(p.Region)
	switch p.State {
	case federation.PeeringPending, federation.PeeringPaused, federation.PeeringTerminated:
		return []admin.CheckResult{admin.Failed(name, admin.CheckWarn, &federation.Diagnostic{Code: "TW-8918",
			What: "the peering with " + name + " is " + p.State.String(), Why: p.Reason, Fix: "tradewind peer show " + name})}
	}
	var state *federation.Diagnostic
	if p.State != federation.PeeringActive {
		state = &federation.Diagnostic{Code: "TW-8919", What: "the peering with " + name + " is " + p.State.String(), Why: p.Reason, Fix: "tradewind peer show " + name}
		if p.LastError != nil {
			state.Code, state.Why, state.Fix = p.LastError.Code, p.LastError.Text, firstOf(p.LastError.Fix, state.Fix)
		}
	}
	results := []admin.CheckResult{judged(name+" session", admin.CheckFail, state), judged(name+" path", admin.CheckFail, a.pathTrouble(p.Region))}
	if d := pathPoor(a.tunnel.Path(p.Region)); d != nil {
		results = append(results, admin.Failed(name+" lane", admin.CheckWarn, d))
	}
	if in := importStatus(p.Exchange); in.Freshness != federation.FreshnessLive || in.Lagging {
		results = append(results, admin.Failed(name+" catalog", admin.CheckWarn, &federation.Diagnostic{Code: "TW-8920",
			What: fmt.Sprintf("the catalog of %s is %v, confirmed %s", name, in.Freshness, age(p.Exchange.Import.AsOf)), Why: p.Exchange.Reason,
			Fix: "there: tradewind check --peer " + string(a.opts.Config.Region)}))
	} else {
		results = append(results, pass(name+" catalog"))
	}
	for _, q := range p.Exchange.Import.Quarantined {
		results = append(results, admin.Failed(name+" "+q.Service, admin.CheckWarn, &federation.Diagnostic{Code: q.Code,
			What: "a row of " + name + " was refused; the last good one is in use", Why: q.Reason, Fix: "tradewind help " + string(q.Code)}))
	}
	if p.Reach.Known && p.Reached.Known && p.Reach.OK != p.Reached.OK {
		results = append(results, admin.Failed(name+" both ways", admin.CheckWarn, &federation.Diagnostic{Code: "TW-8921",
			What: "only one side can dial the other", Why: p.Reach.Detail + p.Reached.Detail, Fix: "open the mesh port in the other direction too, or accept it: sessions carry traffic both ways"}))
	}
	if p.Alarm != nil {
		results = append(results, admin.Failed(name, admin.CheckWarn, &federation.Diagnostic{Code: p.Alarm.Code, What: p.Alarm.Text,
			Why: "noticed " + age(p.Alarm.At), Fix: firstOf(p.Alarm.Fix, "tradewind help "+string(p.Alarm.Code))}))
	}
	return results
}

func (a *Agent) pathTrouble(peer federation.Region) *federation.Diagnostic {
	return pathDown(a.tunnel.Path(peer))
}

// pathPoor is why traffic has to go over TCP, when this gateway knows.
func pathPoor(path tunnel.Path) *federation.Diagnostic {
	if !path.Up || path.Lane == tunnel.LaneQUIC || path.Problem == nil || path.Problem.Code == federation.CodeLaneSilent {
		return nil
	}
	return &federation.Diagnostic{Code: path.Problem.Code, What: "traffic to " + string(path.Peer) + " goes over TCP", Why: path.Problem.Reason(),
		Fix: path.Problem.Fix}
}

// pathDown is nil while path is up. The attempt that failed last knows best what to do about it.
func pathDown(path tunnel.Path) *federation.Diagnostic {
	if path.Up {
		return nil
	}
	d := &federation.Diagnostic{Code: "TW-8922", What: "no way for traffic to " + string(path.Peer), Why: path.LastError,
		Fix: "check that UDP to its mesh port is open: tradewind peer show " + string(path.Peer)}
	if path.Problem != nil && path.Problem.Fix != "" {
		d.Fix = path.Problem.Fix
	}
	return d
}
