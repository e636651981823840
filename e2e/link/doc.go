// Package link is a network between two namespaces whose quality is chosen: delay, jitter, loss, rate, queue, order, copies, size,
// black holes, blocked protocols and forgotten NAT mappings, each way on its own and changeable while it runs. It needs nothing of
// the kernel but TUN devices and root. Every IP packet crosses it, TCP, UDP and ICMP alike:
//
//	namespace A, device eth0 (a TUN)  <-- one thread of this process -->  namespace B, device eth0 (a TUN)
//
// In a test, world.Linked makes the namespaces, runs the link and gives two clouds to run programs, dial and listen in:
//
//	l, a, b := world.Linked(t, link.Config{AToB: p, BToA: p}) // p := link.Profile{Delay: 20 * time.Millisecond}
//	l.Set(link.Both, link.Profile{Delay: 20 * time.Millisecond, Loss: 0.01, Rate: 200e6})
//	l.Rebind(link.A)                                          // the NAT before A forgets its UDP mappings
//	lost := l.Stats().AToB.Lost
//
// Elsewhere: New opens the devices in namespaces that exist, Run carries packets until its context ends, and the command in
// e2e/link/run does both for scripts.
//
// # The way of a packet
//
//  1. NAT of the sending side, once Rebind was asked for: the source port of UDP flows that began there is rewritten.
//  2. Black hole, blocked protocol, MTU. A packet over the MTU is dropped without a word, as by most paths between clouds: no
//     ICMP is sent, so this is a path MTU black hole. Config.MTU is the honest one, which both hosts know.
//  3. The queue: full is full (tail drop). Rate counts the octets of the IP packet, no link layer.
//  4. Loss: on the wire, so the packet has used its time there. Each on its own (Loss) or in bursts (Burst).
//  5. Copies, delay, jitter, reordering.
//  6. NAT of the receiving side: the port is translated back, or the packet dropped when its mapping is forgotten.
//
// A change holds for packets that enter after it, and a new Rate for those that wait in the queue too. What has left the queue
// arrives as it was due; packets that enter later do not overtake it unless Jitter may reorder or Reorder chose them.
//
// # How exact it is
//
// The thread has real-time priority and wakes at most every 50 µs, so a packet arrives 0.05 to 0.15 ms late on a machine with a
// processor to spare; 400 Mbit/s of full packets take 0.3 and 900 Mbit/s 0.45 of a processor. Counters.Late and Worst tell when it
// was not so, and Overruns what the kernel dropped because the thread did not come round: figures from a run where these are
// more than a few are not figures of the network. Random choices follow Config.Seed: the n-th packet of a direction meets the same
// fate in every run, and loss, order and copies are drawn apart from each other.
//
// The thread is one of a Go process and needs its runtime: a process that keeps all of its GOMAXPROCS busy delays it, and so does a
// machine so busy that other threads of the process wait with a lock of the runtime in their hands (40 to 230 ms were seen, with
// eight busy processes on two processors). world.Linked adds to GOMAXPROCS, which is enough for tests. For figures run e2e/link/run,
// where every thread has the priority: 400 Mbit/s came at most 2 ms late there.
package link
