package tunnel

// Fit reports whether a flow that is opened now could go to the same gateway: a session with it is alive, and it has not asked for no
// more. What has not been sent yet had better go elsewhere otherwise, although f may go on.
func (f *Flow) Fit() bool {
	for _, s := range *f.far.peer.table.Load() {
		if s.live.id == f.far.id && s.state.Load() == alive && s.usable() {
			return true
		}
	}
	return false
}
