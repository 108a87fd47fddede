package api

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"keybridge/store"
)

func checkConnector(c *store.Connector) error {
	if err := checkName(c.Name); err != nil {
		return err
	}
	if err := checkModels(c.Models); err != nil {
		return err
	}
	// Applications name an AI connector in a path: /connectors/{name}/v1/…
	if c.Type != store.TypeS3 && (strings.ContainsAny(c.Name, `/?#%\`) || c.Name == "." || c.Name == "..") {
		return badField("name", "the name of an AI connector is part of a path and cannot be . or .. nor contain any of /?#%%\\")
	}
	return nil
}

// maxModels bounds what a bridge compares a request's model with.
const maxModels = 200

// checkModels accepts names, and patterns that end in *.
func checkModels(models []string) error {
	if len(models) > maxModels {
		return badField("models", "has more than %d entries", maxModels)
	}
	for _, m := range models {
		name := strings.TrimSuffix(m, "*")
		if m == "" || len(m) > 256 || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' || c == '*' }) {
			return badField("models", "each must be up to 256 visible ASCII characters, with * at the end only")
		}
	}
	return nil
}

// only reports whether s has no other characters than letters.
func only(s, letters string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(letters, r) })
}

func checkRegion(region string) error {
	if len(region) > 64 || !only(region, base62+"-_") {
		return badField("region", "must be up to 64 letters, digits, - and _")
	}
	return nil
}

// checkBucket is looser than AWS: other services have upper-case and underscores.
func checkBucket(bucket string) error {
	switch {
	case bucket == "":
		return badField("bucket", "is required")
	case bucket == wholeAccount:
		return nil
	case len(bucket) < 3 || len(bucket) > 255 || !only(bucket, base62+".-_") || strings.Trim(bucket, ".") == "":
		return badField("bucket", "must be 3 to 255 letters, digits, dots, - and _, or * for the whole account")
	}
	return nil
}

// maxFolder leaves half of what a key may have (1,024 bytes) to what is in the folder.
const maxFolder = 512

// badFolder says what is wrong with a folder that a repository is limited to: keys
// must be in it however a provider reads a path. A bridge leaves out a bucket whose
// folder is not so (package grant).
func badFolder(folder string) string {
	switch {
	case len(folder) > maxFolder:
		return fmt.Sprintf("must be up to %d bytes", maxFolder)
	case !strings.HasSuffix(folder, "/"):
		return "must end in /"
	case strings.HasPrefix(folder, "/"):
		return "must not begin with /: keys do not"
	case strings.ContainsFunc(folder, func(c rune) bool { return c == '\\' || c == utf8.RuneError || unicode.IsControl(c) }):
		return "must be UTF-8 without control characters and backslashes"
	}
	for segment := range strings.SplitSeq(strings.TrimSuffix(folder, "/"), "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "must have no empty segment, nor . or .. for one"
		}
	}
	return ""
}

// checkAccessKey refuses what delimits a credential in SigV4 or needs quoting in
// a header, as package seal does for a binding.
func checkAccessKey(key string) error {
	if key == "" {
		return badField("key", "is required: the provider's access key id")
	}
	if len(key) > 256 || strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`/,="\<>`, c) }) {
		return badField("key", `must be up to 256 visible ASCII characters without any of / , = " \ < >`)
	}
	return nil
}

// checkCA accepts a PEM bundle of certificates and nothing between them.
func checkCA(bundle, scheme string) error {
	if bundle == "" {
		return nil
	}
	bad := func(why string) error { return badField("caCertificate", "%s", why) }
	if scheme != "https" {
		return bad("is of use only with an https endpoint")
	}
	if len(bundle) > maxCA {
		return bad("is too large")
	}
	rest := []byte(strings.TrimSpace(bundle))
	// pem.Decode skips a block that it cannot read; OpenSSL and BoringSSL fail on it.
	for blocks := strings.Count(bundle, "-----BEGIN "); len(rest) > 0 || blocks != 0; blocks-- {
		if !strings.HasPrefix(string(rest), "-----BEGIN CERTIFICATE-----") {
			return bad("must hold PEM certificates and nothing else")
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || len(block.Headers) != 0 {
			return bad("has a malformed PEM block")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return bad("has a malformed certificate")
		}
		rest = []byte(strings.TrimSpace(string(rest)))
	}
	return nil
}
