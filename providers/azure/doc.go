// Package azure lists workloads of Microsoft Azure: virtual machines, those of Flexible scale sets among them, instances of Uniform
// scale sets, and Container Apps, over any number of subscriptions or a management group. It also names the AKS clusters there
// are, with a token for each, and says where this process runs.
//
// It only reads. Everything is asked of Azure Resource Graph, a thousand workloads with their addresses in one request, because the
// resource providers themselves count requests by the hour. Permissions names every action that is used.
//
// Resource Graph follows the resources with a delay of seconds to a minute. Of a power state this is what has to be lived with: a
// machine that was just stopped is listed as running for that long, and the mesh's own health checks find it out first.
//
// The linker keeps all methods of a value that reaches an interface, and the SDK's clients have hundreds. So no client leaves the
// function that makes it: only method values do. A test reads the source for that.
package azure
