package api_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"keybridge/store/api"
)

func TestSecretsDoNotPrint(t *testing.T) {
	for _, s := range api.Secrets([]byte("hunter2")) {
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s)
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&log, verb+" "+verb+"\n", s, struct{ S any }{s})
		}
		for _, leak := range []string{"hunter2", "68756e", "104 117", "aHVudGVyMg"} {
			if strings.Contains(log.String(), leak) {
				t.Errorf("%T prints itself:\n%s", s, log.String())
			}
		}
	}
}
