package bridge_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"keybridge/extproc/bridge"
)

// Ids have one spelling: with two, a record could stand beside itself.
func TestUUID(t *testing.T) {
	want := uuid.New()
	if got, ok := bridge.UUID(want.String()); !ok || got != want {
		t.Errorf("%s is %x, %v", want, got, ok)
	}
	for _, s := range []string{
		"", "x", strings.ToUpper("5b0c62a2-4c0f-4a83-9e3e-0a1b53a1d001"), "{5b0c62a2-4c0f-4a83-9e3e-0a1b53a1d00}",
		"5b0c62a24-c0f-4a83-9e3e-0a1b53a1d001", "5b0c62a2-4c0f-4a83-9e3e-0a1b53a1d00g", "5b0c62a2_4c0f_4a83_9e3e_0a1b53a1d001",
		"5b0c62a2-4c0f-4a83-9e3e-0a1b53a1d0011", "urn:uuid:5b0c62a2-4c0f-4a83-9e3e-0a",
	} {
		if _, ok := bridge.UUID(s); ok {
			t.Errorf("%q was read", s)
		}
	}
}
