package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"keybridge/keyshare/seal"
)

const (
	// maxBody leaves room for a CA bundle and a sealed secret of the largest size.
	maxBody = 512 << 10
	// maxItems bounds lists in a body.
	maxItems = 1000
)

// body is a JSON object whose fields are taken out by name, case-sensitively;
// what nobody asks for is ignored. The first field with the wrong form is kept in
// err, so that a handler reads all its fields and looks once.
//
// It is not decoded into a struct because a secret must never become a string,
// which cannot be overwritten, and because null, "", "null" and "undefined" all
// mean that a field is absent.
type body struct {
	raw    []byte
	fields map[string]json.RawMessage
	prefix string // of field names in errors: "repoBuckets[2]."
	// err and digest are shared by the objects inside a body.
	err    *error
	digest hash.Hash // over every field that was read, but secrets
}

// readBody reads a request's body; the caller wipes it. No body is an empty object.
func readBody(q *call) (*body, error) {
	raw, err := readAll(http.MaxBytesReader(q.w, q.Body, maxBody), q.ContentLength)
	if err != nil {
		clear(raw)
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, errTooLarge
		}
		return nil, &failure{http.StatusBadRequest, "INVALID_BODY", "the body ended early"}
	}
	b := &body{raw: raw, err: new(error), digest: sha256.New()}
	if len(bytes.TrimSpace(raw)) == 0 {
		return b, nil
	}
	// The decoder's own errors quote the input.
	if json.Unmarshal(raw, &b.fields) != nil {
		b.wipe()
		return nil, errNotJSON
	}
	return b, nil
}

// readAll is io.ReadAll without leaving outgrown copies behind.
func readAll(r io.Reader, size int64) ([]byte, error) {
	buf := make([]byte, 0, min(max(size, 0), maxBody)+512)
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
		if len(buf) == cap(buf) {
			grown := append(make([]byte, 0, 2*cap(buf)), buf...)
			clear(buf)
			buf = grown
		}
	}
}

func (b *body) wipe() {
	clear(b.raw)
	for _, v := range b.fields {
		clear(v)
	}
}

func (b *body) fail(name, format string, args ...any) {
	if *b.err == nil {
		*b.err = badField(b.prefix+name, format, args...)
	}
}

// value returns a field's JSON; nil where it is absent.
func (b *body) value(name string) json.RawMessage {
	v := b.fields[name]
	switch string(v) {
	case "", "null", `""`, `"null"`, `"undefined"`:
		return nil
	}
	return v
}

func (b *body) record(name string, value []byte) {
	fmt.Fprintf(b.digest, "%d %s%s %d ", len(b.prefix)+len(name), b.prefix, name, len(value))
	b.digest.Write(value)
}

// text returns a string; empty where it is absent.
func (b *body) text(name string) string {
	v := b.value(name)
	if v == nil {
		return ""
	}
	var s string
	if json.Unmarshal(v, &s) != nil {
		b.fail(name, "must be a string")
		return ""
	}
	b.record(name, []byte(s))
	return s
}

// id returns a UUID in lower case; empty where it is absent.
func (b *body) id(name string) string {
	s := b.text(name)
	if s == "" {
		return ""
	}
	id, ok := parseID(s)
	if !ok {
		b.fail(name, "is not a UUID")
	}
	return id
}

// boolean returns nil where the field is absent.
func (b *body) boolean(name string) *bool {
	v := b.value(name)
	if v == nil {
		return nil
	}
	out := string(v) == "true"
	if !out && string(v) != "false" {
		b.fail(name, "must be true or false")
		return nil
	}
	b.record(name, v)
	return &out
}

// integer returns a number between two bounds, or what stands for an absent one.
func (b *body) integer(name string, absent, low, high int) int {
	v := b.value(name)
	if v == nil {
		return absent
	}
	var n int
	if json.Unmarshal(v, &n) != nil || n < low || n > high {
		b.fail(name, "must be a whole number from %d to %d", low, high)
		return absent
	}
	b.record(name, strconv.AppendInt(nil, int64(n), 10))
	return n
}

// strings returns a list; present tells an empty one from an absent one.
func (b *body) strings(name string) (list []string, present bool) {
	v := b.value(name)
	if v == nil {
		return nil, false
	}
	if json.Unmarshal(v, &list) != nil || len(list) > maxItems {
		b.fail(name, "must be a list of up to %d strings", maxItems)
		return nil, false
	}
	b.record(name, []byte(strings.Join(list, "\n")))
	return list, true
}

// texts returns an object of strings; nil where it is absent.
func (b *body) texts(name string) map[string]string {
	v := b.value(name)
	if v == nil {
		return nil
	}
	var texts map[string]string
	if json.Unmarshal(v, &texts) != nil || len(texts) > maxItems {
		b.fail(name, "must be an object of up to %d strings", maxItems)
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(texts)) {
		b.record(name, []byte(key+"\n"+texts[key]))
	}
	return texts
}

// time returns nil where the field is absent.
func (b *body) time(name string) *time.Time {
	s := b.text(name)
	if s == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		b.fail(name, "must be a time as in 2026-01-31T12:00:00Z")
		return nil
	}
	t = t.UTC()
	return &t
}

// objects returns a list of objects; present tells an empty list from an absent one.
func (b *body) objects(name string) (items []*body, present bool) {
	v := b.value(name)
	if v == nil {
		return nil, false
	}
	var list []map[string]json.RawMessage
	if json.Unmarshal(v, &list) != nil {
		b.fail(name, "must be a list of objects")
		return nil, false
	}
	if len(list) > maxItems {
		b.fail(name, "has more than %d entries", maxItems)
		return nil, false
	}
	b.record(name, fmt.Append(nil, len(list)))
	for i, fields := range list {
		items = append(items, &body{fields: fields, prefix: fmt.Sprintf("%s%s[%d].", b.prefix, name, i), err: b.err, digest: b.digest})
	}
	return items, true
}

// sealed returns a secret that the caller sealed; nil where it is absent.
func (b *body) sealed(name string) *seal.Sealed {
	v := b.value(name)
	if v == nil {
		return nil
	}
	s := new(seal.Sealed)
	if json.Unmarshal(v, s) != nil {
		b.fail(name, "must be an object {header, key, iv, authTag, message} as package seal writes it")
		return nil
	}
	if err := s.Validate(); err != nil {
		b.fail(name, "%v", err)
		return nil
	}
	if s.Key.Suite != seal.SuiteRSA3072 { // other wraps are for bridges to make
		b.fail(name, "key.suite must be %d", seal.SuiteRSA3072)
		return nil
	}
	return s
}

// secret returns a secret in clear; nil where it is absent. The caller wipes it.
func (b *body) secret(name string) secretText {
	v := b.value(name)
	if v == nil {
		return nil
	}
	s, err := unquote(v)
	if err != nil {
		b.fail(name, "%v", err)
		return nil
	}
	return s
}
