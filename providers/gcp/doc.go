// Package gcp lists workloads of Google Cloud over any number of projects: Compute Engine instances by label in all zones with one
// listing, with what their managed instance groups know of them; Cloud Run services; Service Directory. It also names the GKE
// clusters there are, with a token for each, and says where this process runs.
//
// It only reads. Permissions names every IAM permission that it uses.
//
// Google's library is asked for credentials and for nothing else. The APIs are plain JSON over HTTP here, with the few fields that
// are needed: the generated clients are tens of megabytes, and their transport brings gRPC. The double in gcptest, and the requests
// that are made, are checked against Google's discovery documents by e2e/tools/googleapi.
package gcp
