package s3_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"

	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
	"keybridge/extproc/s3"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
)

// Whatever a stranger's server says, a probe ends with an error, not with the bridge.
func TestProbeOfHostileServer(t *testing.T) {
	for _, body := range []string{
		`<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region is wrong; expecting </Message></Error>`,
		`<Error><Code>AuthorizationHeaderMalformed</Code><Message>expecting '</Message></Error>`,
		`<Error><Code>PermanentRedirect</Code><Region></Region></Error>`,
		`<Error>`, ``, `<!DOCTYPE a [<!ENTITY b "c">]><Error><Code>&b;</Code></Error>`,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, body) // the probe may have gone
		}))
		if _, err := s3.Probe(t.Context(), server.Client(), connectorTo(t, server.URL)); err == nil {
			t.Errorf("%q: no error", body)
		}
		server.Close()
	}
}

func connectorTo(t *testing.T, endpoint string) *grant.Connector {
	t.Helper()
	u, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	arena, err := lockedmem.NewArena()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(arena.Purge)
	c, err := credential.New(arena, seal.Header{Binding: seal.Binding{
		Use: seal.UseS3, Key: "AK", Scheme: "http", Host: u.Hostname(), Port: uint16(port), Scope: "photos",
	}}, []byte("provider-secret"))
	if err != nil {
		t.Fatal(err)
	}
	return &grant.Connector{Provider: grant.ProviderS3, Bucket: "photos", Region: "us-east-1", Credential: c, Authority: u.Host}
}
