package link

import "time"

// Counters say what became of the packets of one direction since New.
type Counters struct {
	Packets uint64 `json:"packets"` // that were sent into the link
	Octets  uint64 `json:"octets"`  // of IP

	Delivered       uint64 `json:"delivered"` // with copies
	DeliveredOctets uint64 `json:"delivered_octets"`

	// Causes of loss.
	Lost       uint64 `json:"lost"`       // by Profile.Loss and Burst
	QueueFull  uint64 `json:"queue_full"` // tail drop
	TooBig     uint64 `json:"too_big"`    // over Profile.MTU
	Blocked    uint64 `json:"blocked"`    // by BlockUDP and BlockTCP
	Blackholed uint64 `json:"blackholed"`
	Forgotten  uint64 `json:"forgotten"` // for a UDP mapping that Rebind dropped
	Refused    uint64 `json:"refused"`   // the receiving device is down

	Duplicated uint64 `json:"duplicated"`
	Reordered  uint64 `json:"reordered"` // held back by Profile.Reorder
	Queue      int    `json:"queue"`     // octets that wait now
	QueueMax   int    `json:"queue_max"` // and at most, with the packet that came last

	// What the link itself did to the traffic. Unless these are zero, or nearly, the figures of the run are not the network's.
	Overflow uint64        `json:"overflow"` // dropped because those on their way took more than 256 MiB
	Overruns uint64        `json:"overruns"` // dropped by the kernel because the link did not fetch them in time
	Late     uint64        `json:"late"`     // delivered more than a millisecond after their time
	Worst    time.Duration `json:"worst_ns"` // how long after its time a packet was delivered at most
}

// Stats are the counters of both directions.
type Stats struct {
	AToB Counters `json:"a_to_b"`
	BToA Counters `json:"b_to_a"`
}
