// Package aws lists workloads of Amazon Web Services: EC2 instances by tag, ECS tasks (awsvpc, bridge with dynamic ports, host;
// on EC2 and Fargate) and Cloud Map, over any number of accounts and regions. What load balancers know of the health of their
// targets is merged into it. It also names the EKS clusters there are, with a token for each, and says where this process runs.
//
// It only reads. Permissions names every action that it uses; a test compares that list with the calls that are made.
//
// The SDK's clients are huge, and the linker keeps all methods of a value that reaches an interface. So no client, and no
// paginator, which holds one in an interface, leaves the function that makes it: only method values do. A test reads the source
// for that. It is the difference between a gateway of 36 MB and one of 66 MB.
package aws
