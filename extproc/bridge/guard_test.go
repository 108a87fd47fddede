package bridge_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"keybridge/extproc/bridge"
	"keybridge/keyshare/lockedmem"
)

func secretOf(t testing.TB, arena *lockedmem.Arena, s string) lockedmem.Secret {
	t.Helper()
	secret, err := arena.Copy([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestPublish(t *testing.T) {
	arena, err := lockedmem.NewArena()
	must(t, err)
	for _, test := range []struct{ name, text, secret, want string }{
		{"plain", "NoSuchBucket: The specified bucket does not exist", "s3cr3t-s3cr3t", "NoSuchBucket: The specified bucket does not exist"},
		{"whole secret", "bad key 9fA-2kQz7Lm.", "9fA-2kQz7Lm", "bad key [withheld]."},
		{"shortened secret", "bad key 9fA-2kQ****7Lm.", "9fA-2kQz7Lm", "bad key [withheld]****7Lm."},
		{"short secret", "bad key abc.", "abc", "bad key [withheld]."},
		{"twice", "abcdefgh abcdefgh", "abcdefgh", "[withheld] [withheld]"},
		{"signature", "Signature=" + strings.Repeat("0f", 32) + " is wrong", "9fA-2kQz7Lm", "Signature=[withheld] is wrong"},
		{"a request id stays", "RequestId 4442587FB7D0A2F9", "9fA-2kQz7Lm", "RequestId 4442587FB7D0A2F9"},
		{"control characters", "a\r\nb\x00c\x1b[31md\u202ee", "9fA-2kQz7Lm", "a bc[31mde"},
		{"a secret taken apart by control characters", "9fA-\x002kQz7\u200bLm", "9fA-2kQz7Lm", "[withheld]"},
		{"not UTF-8", "a\xffb", "9fA-2kQz7Lm", "ab"},
		{"a secret that ends within a character", "bad key abcdefghé", "abcdefgh\xc3", "bad key [withheld]"},
		{"long", strings.Repeat("ü", 400), "9fA-2kQz7Lm", strings.Repeat("ü", 148) + "…"},
		{"no secret involved", "connection refused", "", "connection refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var secret lockedmem.Secret
			if test.secret != "" {
				secret = secretOf(t, arena, test.secret)
			}
			if got := bridge.Publish(test.text, secret); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	gone := secretOf(t, arena, "9fA-2kQz7Lm")
	if got := bridge.Publish("bad key 9fA-2kQz7Lm with s3ss10n+", gone, secretOf(t, arena, "s3ss10n+")); got != "bad key [withheld] with [withheld]" {
		t.Errorf("with a session token: %q", got)
	}
	arena.Free(gone)
	if got := bridge.Publish("bad key 9fA-2kQz7Lm", gone); got != "[withheld]" {
		t.Errorf("with a secret that is gone: %q", got)
	}
}

func FuzzPublish(f *testing.F) {
	f.Add("bad key 9fA-2kQz7Lm", "9fA-2kQz7Lm")
	f.Add("a\r\n\x00\xff", "abc")
	f.Add(strings.Repeat("0f", 600), "0f0f0f0f")
	arena, err := lockedmem.NewArena()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text, key string) {
		if key == "" || len(key) > 4096 {
			return
		}
		secret := secretOf(t, arena, key)
		defer arena.Free(secret)
		got := bridge.Publish(text, secret)
		switch {
		case len(got) > 300, !utf8.ValidString(got), strings.ContainsFunc(got, unicode.IsControl):
			t.Fatalf("not fit to be shown: %q", got)
		case strings.Contains(strings.ReplaceAll(got, "[withheld]", "\n"), key) && len(key) >= 3:
			t.Fatalf("the key %q is in %q", key, got)
		}
	})
}
