package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// toldHCL declares, in the region without listeners, servers that want to be told who their client is.
const toldHCL = `
service "told-v1" {
  instance "nginx" { address = "127.0.0.1:8082" }
}
resolver "told-v1" { proxy_protocol = "v1" }
export "told-v1" { to = ["*"] }
service "told-v2" {
  instance "nginx" { address = "127.0.0.1:8082" }
}
resolver "told-v2" { proxy_protocol = "v2" }
export "told-v2" { to = ["*"] }
intention "told-in" {
  source      = "ingress@aws-us-east-1"
  destination = "told-v1"
  action      = "allow"
}
intention "told-in-2" {
  source      = "ingress@aws-us-east-1"
  destination = "told-v2"
  action      = "allow"
}
`

// told has nginx, in the other region, say whom a PROXY header has named to it: the client of the listener here.
func (o *outside) told(t *testing.T) {
	conf := o.far.Write("told.conf", fmt.Sprintf(`
daemon off; user root; pid %[1]s/told.pid; error_log stderr; worker_processes 1;
events {}
http {
  access_log off; client_body_temp_path %[1]s/told; proxy_temp_path %[1]s/told; fastcgi_temp_path %[1]s/told;
  uwsgi_temp_path %[1]s/told; scgi_temp_path %[1]s/told;
  server { listen 127.0.0.1:8082 proxy_protocol; return 200 "$proxy_protocol_addr $proxy_protocol_port\n"; }
}
`, o.far.Dir))
	o.far.Start("nginx", "-c", conf)
	o.far.Apply(toldHCL)
	for i, version := range []string{"v1", "v2"} {
		port := 8083 + i
		o.edge.Apply(fmt.Sprintf("ingress \"told-%[1]s\" {\n  listen = \"0.0.0.0:%[2]d\"\n  identity = \"ingress\"\n  tcp = \"told-%[1]s\"\n}\n"+
			"intention \"told-%[1]s\" {\n  source = \"ingress\"\n  destination = \"told-%[1]s@gcp-europe-west1\"\n  action = \"allow\"\n}\n", version, port))
		world.Until(t, 20*time.Second, "the client's address at the instance", func() error {
			out, err := o.far.In(t).Try(20*time.Second, "curl", "-sS", "--local-port", "4711-4799", fmt.Sprintf("http://%s:%d/", o.edge.Address, port))
			if err != nil {
				return err
			}
			if address, from, _ := strings.Cut(strings.TrimSpace(out), " "); address != o.far.Address || !strings.HasPrefix(from, "47") {
				return fmt.Errorf("told %q", out)
			}
			return nil
		})
	}
}
