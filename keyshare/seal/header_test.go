package seal_test

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"keybridge/keyshare/seal"
)

// The layout that the documentation of Canonical gives, by hand.
func TestCanonical(t *testing.T) {
	want := strings.Join([]string{
		"0010" + hex.EncodeToString([]byte("keybridge record")),
		"0001",
		"0024" + hex.EncodeToString([]byte("5b0c62a2-4c0f-4a83-9e3e-0a1b53a1d001")),
		"000a" + hex.EncodeToString([]byte("credential")),
		"0024" + hex.EncodeToString([]byte("9a1de644-815e-46d1-bb8f-aa1837f8a002")),
		"0000000000000001",
		"0006" + hex.EncodeToString([]byte("openai")),
		"0000",
		"0005" + hex.EncodeToString([]byte("https")),
		"000b" + hex.EncodeToString([]byte("example.com")),
		"20fb",
		"0000",
		"0003" + hex.EncodeToString([]byte("/v1")),
		"0000",
	}, "")
	h := withBinding(credentialHeader(), func(b *seal.Binding) {
		*b = seal.Binding{Use: seal.UseOpenAI, Scheme: "https", Host: "example.com", Port: 8443, Scope: "/v1"}
	})
	if err := h.Validate(); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(h.Canonical()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestLabel(t *testing.T) {
	got := hex.EncodeToString(seal.Label([]byte{0xaa, 0xbb}, 1, "ff"))
	if want := "aabb" + "0001" + "0002" + "6666"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestValidateHeader(t *testing.T) {
	credential := func(change func(h *seal.Header)) seal.Header {
		h := credentialHeader()
		change(&h)
		return h
	}
	openAI := func(change func(b *seal.Binding)) seal.Header {
		return credential(func(h *seal.Header) {
			h.Binding = seal.Binding{Use: seal.UseOpenAI, Scheme: "https", Host: "api.example.com", Port: 443, Scope: "/v1"}
			change(&h.Binding)
		})
	}
	key := func(change func(h *seal.Header)) seal.Header {
		h := keyHeader()
		change(&h)
		return h
	}
	const upper = "5B0C62A2-4C0F-4A83-9E3E-0A1B53A1D001"

	for name, h := range map[string]seal.Header{
		"credential":      credentialHeader(),
		"repository key":  keyHeader(),
		"any bucket":      credential(func(h *seal.Header) { h.Binding.Scope = "*" }),
		"system roots":    credential(func(h *seal.Header) { h.Binding.CA = "" }),
		"http":            credential(func(h *seal.Header) { h.Binding.Scheme, h.Binding.CA = "http", "" }),
		"IPv4":            credential(func(h *seal.Header) { h.Binding.Host = "192.0.2.1" }),
		"IPv6":            credential(func(h *seal.Header) { h.Binding.Host = "2001:db8::1" }),
		"e-mail-like key": credential(func(h *seal.Header) { h.Binding.Key = "robot@project.example.com" }),
		"last version":    credential(func(h *seal.Header) { h.Version = 1<<53 - 1 }),
		"openai":          openAI(func(*seal.Binding) {}),
		"openai at root":  openAI(func(b *seal.Binding) { b.Scope = "" }),
		"openai, deep":    openAI(func(b *seal.Binding) { b.Scope = "/api/openai_v1" }),
		"s3 key":          key(func(h *seal.Header) { h.Binding.Use = seal.UseS3Key }),
	} {
		if err := h.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	for name, h := range map[string]seal.Header{
		"zero":                     {},
		"format 0":                 credential(func(h *seal.Header) { h.Format = 0 }),
		"format 2":                 credential(func(h *seal.Header) { h.Format = 2 }),
		"workspace missing":        credential(func(h *seal.Header) { h.Workspace = "" }),
		"workspace upper-case":     credential(func(h *seal.Header) { h.Workspace = upper }),
		"workspace nil":            credential(func(h *seal.Header) { h.Workspace = "00000000-0000-0000-0000-000000000000" }),
		"workspace in braces":      credential(func(h *seal.Header) { h.Workspace = "{" + h.Workspace + "}" }),
		"workspace without dashes": credential(func(h *seal.Header) { h.Workspace = strings.ReplaceAll(h.Workspace, "-", "") }),
		"workspace, odd dash":      credential(func(h *seal.Header) { h.Workspace = "5b0c62a24-c0f-4a83-9e3e-0a1b53a1d001" }),
		"type missing":             credential(func(h *seal.Header) { h.Type = "" }),
		"type unknown":             credential(func(h *seal.Header) { h.Type = "other" }),
		"type of the other":        credential(func(h *seal.Header) { h.Type = seal.TypeRepositoryKey }),
		"record":                   credential(func(h *seal.Header) { h.Record = "x" }),
		"version 0":                credential(func(h *seal.Header) { h.Version = 0 }),
		"version beyond JSON":      credential(func(h *seal.Header) { h.Version = 1 << 53 }),
		"use missing":              credential(func(h *seal.Header) { h.Binding.Use = "" }),
		"use of a key":             credential(func(h *seal.Header) { h.Binding.Use = seal.UseS3Key }),
		"key missing":              credential(func(h *seal.Header) { h.Binding.Key = "" }),
		"key with slash":           credential(func(h *seal.Header) { h.Binding.Key = "AK/20260101" }),
		"key with space":           credential(func(h *seal.Header) { h.Binding.Key = "A K" }),
		"key with line break":      credential(func(h *seal.Header) { h.Binding.Key = "AK\r\nx: y" }),
		"key not ASCII":            credential(func(h *seal.Header) { h.Binding.Key = "schlüssel" }),
		"key too long":             credential(func(h *seal.Header) { h.Binding.Key = strings.Repeat("A", 257) }),
		"scheme missing":           credential(func(h *seal.Header) { h.Binding.Scheme = "" }),
		"scheme upper-case":        credential(func(h *seal.Header) { h.Binding.Scheme = "HTTPS" }),
		"host missing":             credential(func(h *seal.Header) { h.Binding.Host = "" }),
		"host upper-case":          credential(func(h *seal.Header) { h.Binding.Host = "S3.example.com" }),
		"host in brackets":         credential(func(h *seal.Header) { h.Binding.Host = "[::1]" }),
		"host with port":           credential(func(h *seal.Header) { h.Binding.Host = "example.com:443" }),
		"host with trailing dot":   credential(func(h *seal.Header) { h.Binding.Host = "example.com." }),
		"host, long IPv6":          credential(func(h *seal.Header) { h.Binding.Host = "0:0:0:0:0:0:0:1" }),
		"host, IPv4 in IPv6":       credential(func(h *seal.Header) { h.Binding.Host = "::ffff:127.0.0.1" }),
		"host, short IPv4":         credential(func(h *seal.Header) { h.Binding.Host = "127.1" }),
		"port missing":             credential(func(h *seal.Header) { h.Binding.Port = 0 }),
		"CA upper-case":            credential(func(h *seal.Header) { h.Binding.CA = strings.ToUpper(h.Binding.CA) }),
		"CA short":                 credential(func(h *seal.Header) { h.Binding.CA = h.Binding.CA[:62] }),
		"CA with http":             credential(func(h *seal.Header) { h.Binding.Scheme = "http" }),
		"bucket missing":           credential(func(h *seal.Header) { h.Binding.Scope = "" }),
		"bucket with path":         credential(func(h *seal.Header) { h.Binding.Scope = "bucket/folder" }),
		"bucket ..":                credential(func(h *seal.Header) { h.Binding.Scope = ".." }),
		"bucket encoded":           credential(func(h *seal.Header) { h.Binding.Scope = "a%2fb" }),
		"repository on credential": credential(func(h *seal.Header) { h.Binding.Repository = h.Record }),
		"openai with key":          openAI(func(b *seal.Binding) { b.Key = "sk" }),
		"openai, bucket":           openAI(func(b *seal.Binding) { b.Scope = "bucket" }),
		"openai, trailing slash":   openAI(func(b *seal.Binding) { b.Scope = "/v1/" }),
		"openai, double slash":     openAI(func(b *seal.Binding) { b.Scope = "/v1//x" }),
		"openai, dots":             openAI(func(b *seal.Binding) { b.Scope = "/v1/../x" }),
		"openai, query":            openAI(func(b *seal.Binding) { b.Scope = "/v1?x" }),
		"openai, long path":        openAI(func(b *seal.Binding) { b.Scope = "/" + strings.Repeat("a", 1024) }),
		"repository missing":       key(func(h *seal.Header) { h.Binding.Repository = "" }),
		"repository upper-case":    key(func(h *seal.Header) { h.Binding.Repository = upper }),
		"key id missing":           key(func(h *seal.Header) { h.Binding.Key = "" }),
		"key with use s3":          key(func(h *seal.Header) { h.Binding.Use = seal.UseS3 }),
		"key with host":            key(func(h *seal.Header) { h.Binding.Host = "example.com" }),
		"key with scope":           key(func(h *seal.Header) { h.Binding.Scope = "bucket" }),
		"key with port":            key(func(h *seal.Header) { h.Binding.Port = 443 }),
		"key with scheme":          key(func(h *seal.Header) { h.Binding.Scheme = "https" }),
		"key with CA":              key(func(h *seal.Header) { h.Binding.CA = seal.CADigest([]byte("x")) }),
	} {
		if err := h.Validate(); !errors.Is(err, seal.ErrHeader) {
			t.Errorf("%s: accepted or other error: %v", name, err)
		}
	}
}
