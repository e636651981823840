package agent

import (
	"context"
	"errors"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
	"github.com/tradewind-mesh/tradewind/federation/peering"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// PeerGenerateToken implements admin.Peerings.
func (a *Agent) PeerGenerateToken(ctx context.Context, r *admin.PeerTokenRequest) (*admin.PeerToken, error) {
	text, info, err := a.peers.GenerateToken(ctx, r.Peer, r.TTL.D(), r.Addresses...)
	if err != nil {
		return nil, err
	}
	return &admin.PeerToken{Token: text, Peer: r.Peer, Expires: admin.At(info.Expires), Addresses: info.Addresses, Fingerprint: a.trust.Fingerprint()}, nil
}

// PeerEstablish implements admin.Peerings.
func (a *Agent) PeerEstablish(ctx context.Context, r *admin.PeerEstablishRequest, progress func(admin.PeerStep)) (*admin.PeerEstablished, error) {
	if t, err := peering.ParseToken(r.Token); err == nil && r.Peer != "" && t.Acceptor != r.Peer {
		return nil, &federation.Diagnostic{Code: federation.CodeTokenRegion, What: "the token was made by " + string(t.Acceptor) + ", not by " + string(r.Peer),
			Why: "nothing was sent", Fix: "to federate with " + string(t.Acceptor) + ": tradewind peer establish " + string(t.Acceptor) + " --token ..."}
	}
	states := map[peering.StepState]admin.StepState{peering.StepRunning: admin.StepRunning, peering.StepDone: admin.StepDone,
		peering.StepWarning: admin.StepWarning, peering.StepFailed: admin.StepFailed}
	result, err := a.peers.Establish(ctx, r.Token, func(s peering.Step) {
		progress(admin.PeerStep{Name: s.Name, State: states[s.State], Text: s.Detail})
	}, r.Addresses...)
	if err != nil {
		return nil, err
	}
	return &admin.PeerEstablished{Peering: a.peering(result.Peering), TookSeconds: admin.SecondsOf(result.Took)}, nil
}

// PeerWait implements admin.Peerings.
func (a *Agent) PeerWait(ctx context.Context, r *admin.PeerWaitRequest) (*admin.Peering, error) {
	return a.answerPeer(a.peers.Wait(ctx, r.Peer, r.State))
}

// PeerList implements admin.Peerings.
func (a *Agent) PeerList(context.Context, *admin.PeerListRequest) (*admin.PeerListResponse, error) {
	return &admin.PeerListResponse{Peerings: a.peerings()}, nil
}

func (a *Agent) peerings() []admin.Peering {
	var out []admin.Peering
	for _, s := range a.peers.List() {
		out = append(out, a.peering(s))
	}
	return out
}

// PeerShow implements admin.Peerings.
func (a *Agent) PeerShow(_ context.Context, r *admin.PeerRequest) (*admin.Peering, error) {
	return a.answerPeer(a.peers.Show(r.Peer))
}

// PeerPause implements admin.Peerings.
func (a *Agent) PeerPause(ctx context.Context, r *admin.PeerRequest) (*admin.Peering, error) {
	if err := a.peers.Pause(ctx, r.Peer); err != nil {
		return nil, known(err)
	}
	return a.answerPeer(a.peers.Wait(ctx, r.Peer, federation.PeeringPaused))
}

// PeerResume implements admin.Peerings.
func (a *Agent) PeerResume(ctx context.Context, r *admin.PeerRequest) (*admin.Peering, error) {
	if err := a.peers.Resume(ctx, r.Peer); err != nil {
		return nil, known(err)
	}
	return a.answerPeer(a.peers.Show(r.Peer))
}

// PeerRemove implements admin.Peerings.
func (a *Agent) PeerRemove(ctx context.Context, r *admin.PeerRequest) (*admin.PeerRemoveResponse, error) {
	told, err := a.peers.Remove(ctx, r.Peer)
	if err != nil {
		return nil, known(err)
	}
	return &admin.PeerRemoveResponse{Told: told}, a.plane.Settle(ctx)
}

func (a *Agent) answerPeer(s peering.PeeringStatus, err error) (*admin.Peering, error) {
	if err != nil {
		return nil, known(err)
	}
	p := a.peering(s)
	return &p, nil
}

// known marks an error about a peering that does not exist as what the API calls "not found".
func known(err error) error {
	var d *federation.Diagnostic
	if !errors.As(err, &d) || d.Code != federation.CodePeeringUnknown {
		return err
	}
	out := *d
	out.Err = errors.Join(admin.ErrNotFound, d.Err)
	return &out
}

// peering joins what the control plane and the tunnel know of one peer.
func (a *Agent) peering(s peering.PeeringStatus) admin.Peering {
	path := a.tunnel.Path(s.Region)
	out := admin.Peering{
		Region: s.Region, TrustDomain: s.TrustDomain, State: s.State, Since: admin.At(s.Since), Reason: s.Reason,
		Gateways: s.Gateways, Fingerprint: s.Fingerprint,
		Path: admin.PathStatus{Up: path.Up, Lane: path.Lane, Address: path.Address, RTTSeconds: admin.SecondsOf(path.RTT), Loss: path.Loss,
			Sessions: path.Sessions, QUIC: path.QUIC, TCP: path.TCP, Since: admin.At(path.Since)},
		Exchange: s.Session.Lane, Import: importStatus(s.Exchange), Export: exportStatus(s.Exchange),
	}
	out.Import.Names, out.Export.Names = s.Imported, s.Exported
	switch {
	case s.State == federation.PeeringFailing && s.LastError != nil:
		out.Problem = trouble(admin.SeverityError, s.Region, s.LastError)
	case s.Alarm != nil:
		out.Problem = trouble(admin.SeverityWarning, s.Region, s.Alarm)
	}
	return out
}

func trouble(severity admin.Severity, peer federation.Region, t *peering.Trouble) *admin.Problem {
	return &admin.Problem{Severity: severity, Code: t.Code, What: t.Text, Peer: peer,
		Why: "noticed " + time.Since(t.At).Round(time.Second).String() + " ago",
		Fix: firstOf(t.Fix, "tradewind peer show "+string(peer))}
}

func importStatus(s exchange.Status) admin.ImportStatus {
	in := s.Import
	out := admin.ImportStatus{Services: in.Services, Freshness: s.State, AsOf: admin.At(in.AsOf), Epoch: in.Applied.Epoch.String(), Seq: in.Applied.Seq,
		Head: in.Head.Seq, Lagging: in.Lagging, Braked: in.Braked}
	if !in.AsOf.IsZero() {
		out.AgeSeconds = admin.SecondsOf(max(0, time.Since(in.AsOf)))
	}
	for _, q := range in.Quarantined {
		out.Quarantined = append(out.Quarantined, admin.Quarantined{Service: q.Service, Reason: string(q.Code) + " " + q.Reason})
	}
	return out
}

func exportStatus(s exchange.Status) admin.ExportStatus {
	return admin.ExportStatus{Services: s.Export.Services, Applied: s.Export.Applied.Seq, Head: s.Export.Head.Seq}
}

// Ping implements admin.Answers.
func (a *Agent) Ping(ctx context.Context, r *admin.PingRequest) (*admin.Pong, error) {
	if _, err := a.peers.Show(r.Peer); err != nil {
		return nil, known(err)
	}
	pong, err := a.tunnel.Ping(ctx, r.Peer)
	if err != nil {
		d := because("TW-8905", "no gateway of "+string(r.Peer)+" can be reached", err, "")
		d.Why, d.Fix = firstOf(a.tunnel.Path(r.Peer).LastError, d.Why), "tradewind check --peer "+string(r.Peer)
		d.Err = errors.Join(admin.ErrUnreachable, err)
		return nil, d
	}
	out := &admin.Pong{Peer: r.Peer, Lane: pong.Lane, Address: pong.Address, RTTSeconds: admin.SecondsOf(pong.RTT)}
	if s, err := a.peers.Show(r.Peer); err == nil && s.Exchange.Connected {
		offset := admin.SecondsOf(s.Exchange.ClockOffset)
		out.ClockOffsetSeconds = &offset
	}
	return out, nil
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
