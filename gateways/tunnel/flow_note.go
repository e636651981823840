package tunnel

import (
	"context"
	"encoding/hex"
	"log/slog"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// note says in the log why a flow ends before both of its ends have. mu is held.
func (f *Flow) note(err error, code flow.ResetCode) {
	logger := f.far.t.log
	if !logger.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	logger.Debug("flow ends before its end", "peer", f.far.peer.region, "gateway", f.far.id.String(), "flow", hex.EncodeToString(f.id[:]),
		"opened_here", f.role == flow.Opener, "code", code.String(), "err", err, "sent", f.out.Offset(), "acknowledged", f.out.Acked(),
		"carriers", len(f.everyLeg()))
}
