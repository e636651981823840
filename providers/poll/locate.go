package poll

import "time"

// Location is where this process runs, as a cloud's metadata service says it.
type Location struct {
	Provider   string // "aws", "azure", "gcp"
	Region     string // "eu-west-1"
	ZoneID     string // "euw1-az2", "westeurope-az2", "europe-west1-b": the same place for every account; empty where it is not said
	Zone       string // "eu-west-1b", "westeurope-1": this account's name of the zone; empty: none
	InstanceID string // of the machine, as in records; on Cloud Run of the container instance, on Fargate empty
	Account    string // AWS account, Azure subscription, GCP project
}

// LocateWithin bounds an adapter's Locate: a process that is not on that cloud must not start late.
const LocateWithin = 2 * time.Second
