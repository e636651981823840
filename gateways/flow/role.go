package flow

// Role is which end of a flow a machine stands at.
type Role uint8

// The roles.
const (
	Opener   Role = iota // sent OPEN
	Answerer             // got it
)

// Other is the role of the other end.
func (r Role) Other() Role { return 1 - r&1 }

// phase is how far one half has come.
type phase uint8

const (
	phaseNew    phase = iota // opener's half: before OPEN; answerer's half: before ACCEPT or REFUSE
	phaseBytes               // DATA and FIN may come
	phaseClosed              // FIN has been; only OUTCOME or RESET may follow
	phaseOver                // REFUSE or RESET has been; nothing may follow
)
