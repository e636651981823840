package admin

import (
	"context"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Failover is which region serves what, and the planned drains of regions. All of it is as seen from this region.
type Failover interface {
	FailoverShow(context.Context, *FailoverShowRequest) (*FailoverShowResponse, error)
	FailoverTest(context.Context, *FailoverTestRequest) (*FailoverTestResponse, error)
	// FailoverDrain answers when the drain is durable and in force; FailoverShow tells how calls leave.
	FailoverDrain(context.Context, *FailoverDrainRequest) (*DrainStatus, error)
	FailoverReturn(context.Context, *FailoverReturnRequest) (*DrainStatus, error)
}

// FailoverShowRequest asks who serves all services, or one.
type FailoverShowRequest struct {
	Service federation.ServiceName `json:"service,omitzero"`
}

// FailoverShowResponse is sorted by service, its drains by region.
type FailoverShowResponse struct {
	Region   federation.Region     `json:"region"`
	Drains   List[DrainStatus]     `json:"drains"`
	Services List[ServiceFailover] `json:"services"`
}

// ServiceFailover is who serves a service now.
type ServiceFailover struct {
	Service  federation.ServiceName  `json:"service"`
	Protocol federation.Protocol     `json:"protocol"`
	Serving  federation.Region       `json:"serving,omitempty"` // takes the next call; empty: nobody can
	Failover *FailoverStatus         `json:"failover,omitempty"`
	Regions  List[FailoverRegion]    `json:"regions"` // in the order they are tried, then those that are not
	Pinned   List[federation.Region] `json:"pinned"`  // named by upstreams, so that their callers go nowhere else
}

// FailoverRegion is one region that has the service, or could.
type FailoverRegion struct {
	Region     federation.Region    `json:"region"`
	Local      bool                 `json:"local,omitempty"`
	Serves     bool                 `json:"serves"` // takes calls, if those before it do not
	Reason     string               `json:"reason"`
	Healthy    uint32               `json:"healthy"`
	Total      uint32               `json:"total"`
	Freshness  federation.Freshness `json:"freshness"`
	AgeSeconds Seconds              `json:"age_seconds"` // of what the peer showed; 0 for this region
	LastSecond uint64               `json:"last_second"` // calls that went there: requests, or new connections where requests are not seen
	PerSecond  float64              `json:"per_second"`  // the same, mean of the last minute
	Open       int                  `json:"open"`        // connections and requests under way
}

// DrainStatus is one drain. A region that comes back has it until its share is whole.
type DrainStatus struct {
	Region     federation.Region `json:"region"`
	Owner      string            `json:"owner"`
	By         string            `json:"by,omitempty"`
	Since      Time              `json:"since,omitzero"`
	AgeSeconds Seconds           `json:"age_seconds"`
	Until      Time              `json:"until,omitzero"`    // when the region begins to come back; without: when it is told to
	ResetAt    Time              `json:"reset_at,omitzero"` // when what is still open there is reset
	Share      float64           `json:"share"`             // of its usual calls, that it may have now: 0 while drained, then up to 1
}

// FailoverTestRequest asks what would move if Region were lost or drained; federation.Local is this region.
type FailoverTestRequest struct {
	Region federation.Region `json:"region"`
}

// FailoverTestResponse lists what would move, by service.
type FailoverTestResponse struct {
	Region   federation.Region  `json:"region"`
	Moves    List[FailoverMove] `json:"moves"`
	Unserved int                `json:"unserved"` // moves that have nowhere to go
}

// FailoverMove is a service whose calls would go elsewhere.
type FailoverMove struct {
	Service   federation.ServiceName `json:"service"`
	From      federation.Region      `json:"from"`
	To        federation.Region      `json:"to,omitempty"` // empty: nobody else could serve them
	Reason    string                 `json:"reason,omitempty"`
	PerSecond float64                `json:"per_second"` // calls of the last minute
	Open      int                    `json:"open"`
}

// FailoverDrainRequest asks to send calls elsewhere than to Region.
type FailoverDrainRequest struct {
	Region     federation.Region   `json:"region"`
	Owner      string              `json:"owner"`
	For        federation.Duration `json:"for,omitempty"`         // until it comes back by itself; 0: until FailoverReturn
	ResetAfter federation.Duration `json:"reset_after,omitempty"` // what is still open there then is reset; 0: never
	Force      bool                `json:"force,omitempty"`       // take over another owner's drain
}

// FailoverReturnRequest asks to give a drained region its calls back, little by little.
type FailoverReturnRequest struct {
	Region federation.Region `json:"region"`
	Owner  string            `json:"owner"`
	Force  bool              `json:"force,omitempty"`
}

// CallerOf is who makes the call that ctx belongs to: "uid 0, pid 12".
func CallerOf(ctx context.Context) string {
	caller, _ := ctx.Value(callerKey{}).(string)
	return caller
}

// FailoverShow implements Failover.
func (c *Client) FailoverShow(ctx context.Context, r *FailoverShowRequest) (*FailoverShowResponse, error) {
	return call[FailoverShowRequest, FailoverShowResponse](ctx, c, "FailoverShow", r)
}

// FailoverTest implements Failover.
func (c *Client) FailoverTest(ctx context.Context, r *FailoverTestRequest) (*FailoverTestResponse, error) {
	return call[FailoverTestRequest, FailoverTestResponse](ctx, c, "FailoverTest", r)
}

// FailoverDrain implements Failover.
func (c *Client) FailoverDrain(ctx context.Context, r *FailoverDrainRequest) (*DrainStatus, error) {
	return call[FailoverDrainRequest, DrainStatus](ctx, c, "FailoverDrain", r)
}

// FailoverReturn implements Failover.
func (c *Client) FailoverReturn(ctx context.Context, r *FailoverReturnRequest) (*DrainStatus, error) {
	return call[FailoverReturnRequest, DrainStatus](ctx, c, "FailoverReturn", r)
}
