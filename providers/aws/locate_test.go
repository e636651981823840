package aws

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestLocateTrustsNoAnswer: whoever sits at the metadata service's address sends us nowhere else, and cannot fill the memory.
func TestLocateTrustsNoAnswer(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
		},
		"without end": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
			for _, err := io.WriteString(w, "{\"region\":\""); err == nil; {
				_, err = io.WriteString(w, strings.Repeat("a", 1<<16))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(answer)
			defer server.Close()
			t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.URL)
			for _, task := range []string{"", server.URL} {
				t.Setenv("ECS_CONTAINER_METADATA_URI_V4", task)
				if here, err := Locate(t.Context()); err == nil {
					t.Errorf("located at %+v", here)
				}
			}
		})
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
}
