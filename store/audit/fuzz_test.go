package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"

	"keybridge/store/audit"
)

// hashed gives a line the hash that it should have: random bytes never would.
func hashed(body []byte) []byte {
	sum := sha256.Sum256(body)
	return []byte(string(body) + `,"hash":"` + hex.EncodeToString(sum[:]) + `"}`)
}

// What the parser takes is what the encoder would have written, byte for byte.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"seq":1,"id":"a","time":"2026-01-01T00:00:00Z","context":"c","event":"e","prev":""`,
		`{"seq":2,"id":"a","time":"2026-01-01T00:00:00.5Z","context":"c","event":"e","contextId":"i","userId":"u","workspaceId":"w","data":{"a":[1,null]},"prev":"00"`,
		`{"seq":2,"id":"a","time":"2026-01-01T00:00:00+01:00","context":"c","event":"e","data":null,"prev":""`,
		`{"seq":0,"Seq":1,"id":"\u0061","time":"1969-01-01T00:00:00Z","context":"","event":"e","data": {},"prev":""`,
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, complete bool) {
		if complete {
			b = hashed(b)
		}
		if again, err := audit.Parse(b); err == nil && !bytes.Equal(again, append(b, '\n')) {
			t.Errorf("%q was taken, is written %q", b, again)
		}
	})
}

// A log of which every line verifies has as many lines as Verify says.
func FuzzVerify(f *testing.F) {
	one := hashed([]byte(`{"seq":1,"id":"a","time":"2026-01-01T00:00:00Z","context":"c","event":"e","prev":""`))
	f.Add(append(one, '\n'))
	f.Add(one)
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := audit.Verify(bytes.NewReader(b))
		var bad *audit.LineError
		switch {
		case err == nil && h.Lines != uint64(bytes.Count(b, []byte("\n"))):
			t.Errorf("%d lines of %q", h.Lines, b)
		case err != nil && (!errors.As(err, &bad) || bad.Line != h.Lines+1):
			t.Errorf("%v after %v", err, h)
		}
	})
}

func TestParseRefusesWhatIsNotCanonical(t *testing.T) {
	const good = `{"seq":1,"id":"a","time":"2026-01-01T00:00:00Z","context":"c","event":"e","prev":""`
	if _, err := audit.Parse(hashed([]byte(good))); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{
		"order":             `{"id":"a","seq":1,"time":"2026-01-01T00:00:00Z","context":"c","event":"e","prev":""`,
		"a key twice":       `{"seq":1,"id":"b","id":"a","time":"2026-01-01T00:00:00Z","context":"c","event":"e","prev":""`,
		"case of a key":     `{"Seq":1,"id":"a","time":"2026-01-01T00:00:00Z","context":"c","event":"e","prev":""`,
		"unknown key":       `{"seq":1,"id":"a","time":"2026-01-01T00:00:00Z","context":"c","event":"e","prev":"","x":1`,
		"white space":       `{"seq":1, "id":"a","time":"2026-01-01T00:00:00Z","context":"c","event":"e","prev":""`,
		"an escape":         `{"seq":1,"id":"\u0061","time":"2026-01-01T00:00:00Z","context":"c","event":"e","prev":""`,
		"a zone":            `{"seq":1,"id":"a","time":"2026-01-01T01:00:00+01:00","context":"c","event":"e","prev":""`,
		"an empty field":    `{"seq":1,"id":"a","time":"2026-01-01T00:00:00Z","context":"c","event":"e","userId":"","prev":""`,
		"number zero":       `{"seq":0,"id":"a","time":"2026-01-01T00:00:00Z","context":"c","event":"e","prev":""`,
		"no id":             `{"seq":1,"id":"","time":"2026-01-01T00:00:00Z","context":"c","event":"e","prev":""`,
		"spaces in data":    `{"seq":1,"id":"a","time":"2026-01-01T00:00:00Z","context":"c","event":"e","data":{ },"prev":""`,
		"a hash in a field": `{"seq":1,"id":"a","time":"2026-01-01T00:00:00Z","context":"c","event":"e","prev":"","hash":""`,
		"an array":          `[1`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := audit.Parse(hashed([]byte(body))); err == nil {
				t.Error("taken")
			}
		})
	}
}
