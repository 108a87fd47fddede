package lockedmem_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"keybridge/keyshare/lockedmem"
)

func TestSecretIsNotPrinted(t *testing.T) {
	const plain = "s3cr3t-value"
	s := mustCopy(t, newArena(t), []byte(plain))
	const want = "[redacted]"

	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		if got := fmt.Sprintf(verb, s); got != want {
			t.Errorf("%s: %s", verb, got)
		}
	}
	type holder struct{ S lockedmem.Secret }
	for _, v := range []any{holder{s}, &holder{s}, []lockedmem.Secret{s}} {
		if got := fmt.Sprintf("%+v %#v", v, v); !strings.Contains(got, want) || strings.Contains(got, plain) {
			t.Errorf("%T: %s", v, got)
		}
	}
	// fmt calls no method for %p, nor for unexported fields: it prints the handle,
	// and follows no pointer inside it.
	hidden := struct{ s lockedmem.Secret }{s}
	for _, got := range []string{fmt.Sprintf("%p", s), fmt.Sprintf("%+v %#v", hidden, hidden), fmt.Sprintf("%+v %#v", &hidden, &hidden)} {
		if strings.Contains(got, plain) || strings.Contains(got, strings.Trim(fmt.Sprintf("%d", []byte(plain)), "[]")) {
			t.Error(got)
		}
	}
	if s.String() != want || s.GoString() != want {
		t.Error("String or GoString")
	}
	if text, err := s.MarshalText(); err != nil || string(text) != want {
		t.Errorf("MarshalText: %s, %v", text, err)
	}
	for _, v := range []any{s, &s, holder{s}, map[string]lockedmem.Secret{"k": s}} {
		if b, err := json.Marshal(v); err != nil || !strings.Contains(string(b), `"[redacted]"`) {
			t.Errorf("json of %T: %s, %v", v, b, err)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "secret", s, "in", holder{s})
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "secret", s, "in", holder{s})
	if got := log.String(); strings.Contains(got, plain) || strings.Count(got, want) != 4 {
		t.Errorf("slog: %s", got)
	}
}

func TestSecretCannotBeCompared(t *testing.T) {
	if reflect.TypeFor[lockedmem.Secret]().Comparable() {
		t.Error("secrets can be compared with ==")
	}
}
