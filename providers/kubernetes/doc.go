// Package kubernetes finds the endpoints of Services in Kubernetes clusters.
//
// It lists and watches EndpointSlices, and the metadata of Services for their labels and annotations; it reads neither pods nor
// secrets. An endpoint counts while its Service exists, and is never taken from the Service "kubernetes" of namespace "default",
// which is the API server itself. The cluster role that the gateway needs:
//
//	rules:
//	- apiGroups: ["discovery.k8s.io"]
//	  resources: ["endpointslices"]
//	  verbs: ["list", "watch"]
//	- apiGroups: [""]
//	  resources: ["services"]
//	  verbs: ["list", "watch"]
//
// A workload has its Service's labels, and of the annotations those that begin with "mesh/" or "mesh-"; where both say something the
// annotation counts. Nothing is exported to peers without mesh/export.
//
// What it relies on (https://kubernetes.io/docs/reference/using-api/api-concepts/):
//
//   - Pages of one list show one moment. A token for the next page expires when etcd is compacted; then the list begins anew.
//   - A watch goes on where the last one ended, by resource version. When that is too old (410 Gone) the resource is listed again.
//   - An endpoint may be in two slices while it moves from one to the other, and a pod of two families is in a slice of each.
//   - A watch that is broken says nothing: what it would have said is learnt by the next one, and nothing is removed meanwhile.
//
// The API is spoken with net/http and small types of our own: client-go would add 4 MB to the program for credentials alone and
// nearly 8 MB in all, and it starts goroutines that never end.
package kubernetes
