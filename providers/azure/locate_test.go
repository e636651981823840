package azure

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

func TestLocateReadsABoundedAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"location":"westeurope","subscriptionId":"00000000-0000-0000-0000-000000000001","userData":"`+
			strings.Repeat("a", poll.MaxMetadata)+`"}`)
	}))
	defer server.Close()
	t.Setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.URL)
	if here, err := Locate(t.Context()); err == nil {
		t.Errorf("located at %+v by an answer of more than %d octets", here, poll.MaxMetadata)
	}
}
