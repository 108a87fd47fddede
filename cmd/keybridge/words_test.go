package main

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"keybridge/store/api/client"
)

func TestFail(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		want   string
		status int
	}{
		{"plain", errors.New("no"), "keybridge: no\n", 1},
		{"with a hint", fmt.Errorf("doing it: %w", &hinted{errors.New("no"), "yes"}), "keybridge: doing it: no\n  hint: yes\n", 1},
		{"of the admin API", &client.Error{Status: 503, Code: "AUDIT_UNAVAILABLE", Message: "no log"},
			"keybridge: admin API: no log (AUDIT_UNAVAILABLE)\n  hint: the control plane cannot write its audit log; look at its disk and its log\n", 1},
		{"with a code that is new", &client.Error{Status: 418, Code: "TEAPOT", Message: "short"}, "keybridge: admin API: short (TEAPOT)\n", 1},
		{"too fast", &client.Error{Status: 429, Code: "TOO_MANY_REQUESTS", Message: "slower", RetryAfter: 3 * time.Second},
			"keybridge: admin API: slower (TOO_MANY_REQUESTS)\n  hint: try again in 3s\n", 1},
		{"of a proxy", &client.Error{Status: 502},
			"keybridge: admin API: HTTP status 502\n  hint: that was not the admin API's answer; check --admin, or a proxy before it\n", 1},
		{"that would write to the terminal", errors.New("a\x1b[2Jb\nc\u009bd"), "keybridge: a [2Jb\nc d\n", 1},
		{"said already", fmt.Errorf("x: %w", exitStatus(2)), "", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			if status := fail(&out, root(), c.err); status != c.status || out.String() != c.want {
				t.Errorf("status %d, printed %q, want %d and %q", status, out.String(), c.status, c.want)
			}
		})
	}
}

func TestWords(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(d time.Duration) *time.Time { t := now.Add(d); return &t }
	for _, c := range []struct{ got, want string }{
		{span(0), "0s"}, {span(119 * time.Second), "119s"}, {span(2 * time.Minute), "2m"}, {span(2 * time.Hour), "2h"},
		{span(48 * time.Hour), "2d"}, {span(-3 * time.Minute), "-3m"},
		{expiry(nil, now), "never"}, {expiry(at(72*time.Hour), now), "2026-01-05T03:04Z (in 3d)"}, {expiry(at(0), now), "2026-01-02T03:04Z (expired)"},
		{plural(1, "key"), "1 key"}, {plural(2, "key"), "2 keys"}, {plural(0, "repository"), "0 repositories"},
		{counted(3), "3"}, {counted(3, count{0, "off"}, count{2, "on"}), "3, 2 on"},
		{quote("it's"), `'it'\''s'`}, {day(time.Time{}), ""},
		{fmt.Sprint(edits("photos", "photo"), edits("", "ab"), edits("gtp", "gpt"), edits("same", "same")), "1 2 2 0"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
