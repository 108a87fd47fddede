package llm_test

import (
	"net/url"
	"testing"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/grant"
	"keybridge/extproc/llm"
	"keybridge/extproc/protocoltest"
)

func TestConformance(t *testing.T) {
	protocoltest.Run(t, protocoltest.Suite{
		New:     func(live *grant.Live) extproc.Protocol { return llm.New(live) },
		Use:     grant.UseAIKey,
		Request: conformanceRequest("/v1/models", "GET"),
	})
}

// conformanceRequest is a request of a connector by its name.
func conformanceRequest(path, method string) func(time.Time, protocoltest.Key, string, ...extproc.Header) *extproc.Request {
	return func(_ time.Time, k protocoltest.Key, target string, more ...extproc.Header) *extproc.Request {
		return extproc.NewRequest(true, append([]extproc.Header{
			{Name: ":method", Value: method}, {Name: ":path", Value: "/connectors/" + url.PathEscape(target) + path},
			{Name: ":authority", Value: "gateway.example"}, {Name: ":scheme", Value: "http"},
			{Name: "authorization", Value: "Bearer " + k.Secret},
		}, more...)...)
	}
}
