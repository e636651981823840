// Package federation holds the nouns of Tradewind: regions, services, instances, catalogs, imports, peers, resources and the
// view that the data path may know. It is the ground floor: values and the rules that make them valid, without I/O,
// goroutines or a clock. Every other room speaks in these types.
package federation
