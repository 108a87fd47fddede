package keeper_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/keeper/keepertest"
)

func policyFile(t *testing.T, text string) (string, *keeper.Policy) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := keeper.OpenPolicy(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return path, p
}

func TestPolicyRules(t *testing.T) {
	bridge := identity.Peer{Role: identity.RoleBridge, Name: "bridge-1"}
	operator := identity.Peer{Role: identity.RoleOperator, Name: "ada"}
	const work = `"hours": {"days": ["mon","tue"], "from": "07:00", "to": "19:00", "zone": "UTC"}`
	const night = `"hours": {"days": ["mon"], "from": "22:00", "to": "06:00", "zone": "UTC"}`
	at := func(text string) time.Time { // 2026-06-01 is a Monday
		t.Helper()
		when, err := time.Parse("2006-01-02 15:04", text)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	monday := at("2026-06-01 12:00")
	tests := []struct {
		name, policy string
		who          identity.Peer
		now          time.Time
		from         string
		want         string // "" : allowed
	}{
		{"no rules", `{}`, bridge, monday, "10.0.0.1", ""},
		{"listed", `{"bridges": ["bridge-2","bridge-1"]}`, bridge, monday, "10.0.0.1", ""},
		{"not listed", `{"bridges": ["bridge-2"]}`, bridge, monday, "10.0.0.1", "bridges: bridge-1 is not listed"},
		{"none listed", `{"bridges": []}`, bridge, monday, "10.0.0.1", "bridges: "},
		{"an operator is on no list", `{"bridges": []}`, operator, monday, "10.0.0.1", ""},
		{"inside", `{"networks": ["192.0.2.0/24","10.0.0.0/8"]}`, bridge, monday, "10.0.0.1", ""},
		{"outside", `{"networks": ["192.0.2.0/24"]}`, bridge, monday, "10.0.0.1", "networks: 10.0.0.1 is in none of them"},
		{"an operator outside", `{"networks": ["192.0.2.0/24"]}`, operator, monday, "10.0.0.1", "networks: "},
		{"IPv6 inside", `{"networks": ["2001:db8::/32"]}`, bridge, monday, "2001:db8::1", ""},
		{"IPv6 outside", `{"networks": ["0.0.0.0/0"]}`, bridge, monday, "2001:db8::1", "networks: "},
		{"in hours", `{` + work + `}`, bridge, monday, "10.0.0.1", ""},
		{"at opening", `{` + work + `}`, bridge, at("2026-06-01 07:00"), "10.0.0.1", ""},
		{"before", `{` + work + `}`, bridge, at("2026-06-01 06:59"), "10.0.0.1", "hours: closed at Mon 06:59 UTC"},
		{"at closing", `{` + work + `}`, bridge, at("2026-06-01 19:00"), "10.0.0.1", "hours: "},
		{"another day", `{` + work + `}`, bridge, at("2026-06-03 12:00"), "10.0.0.1", "hours: "},
		{"an operator after hours", `{` + work + `}`, operator, at("2026-06-03 12:00"), "10.0.0.1", ""},
		{"at night", `{` + night + `}`, bridge, at("2026-06-01 23:00"), "10.0.0.1", ""},
		{"past midnight", `{` + night + `}`, bridge, at("2026-06-02 05:59"), "10.0.0.1", ""},
		{"the night before", `{` + night + `}`, bridge, at("2026-06-01 05:00"), "10.0.0.1", "hours: "},
		{"the night after", `{` + night + `}`, bridge, at("2026-06-02 23:00"), "10.0.0.1", "hours: "},
		{"whole day", `{"hours": {"days": ["mon"], "from": "00:00", "to": "24:00", "zone": "UTC"}}`, bridge, at("2026-06-01 23:59"), "10.0.0.1", ""},
		{"whole day, the next", `{"hours": {"days": ["mon"], "from": "00:00", "to": "24:00", "zone": "UTC"}}`, bridge, at("2026-06-02 00:00"), "10.0.0.1", "hours: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, p := policyFile(t, tt.policy)
			err := p.AllowAt(tt.now, tt.who, netip.MustParseAddr(tt.from))
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestPolicyRate(t *testing.T) {
	_, p := policyFile(t, `{"rate": {"count": 2, "per": "1h"}}`)
	start, from := time.Unix(1_800_000_000, 0), netip.MustParseAddr("10.0.0.1")
	one, two := identity.Peer{Role: identity.RoleBridge, Name: "bridge-1"}, identity.Peer{Role: identity.RoleBridge, Name: "bridge-2"}
	ada, bob := identity.Peer{Role: identity.RoleOperator, Name: "ada"}, identity.Peer{Role: identity.RoleOperator, Name: "bob"}
	for i, step := range []struct {
		after time.Duration
		who   identity.Peer
		ok    bool
	}{
		{0, one, true}, {0, one, true}, {0, one, false},
		{0, two, true}, // a bucket of its own
		{29 * time.Minute, one, false}, {30 * time.Minute, one, true}, {30 * time.Minute, one, false},
		{0, ada, true}, {0, bob, true}, {0, ada, false}, // one for all operators
	} {
		if err := p.AllowAt(start.Add(step.after), step.who, from); (err == nil) != step.ok {
			t.Errorf("step %d: %v", i, err)
		}
	}
}

func TestPolicyIsStrict(t *testing.T) {
	for name, text := range map[string]string{
		"empty":               ``,
		"not an object":       `[]`,
		"null":                `null`,
		"unknown member":      `{"bridge": ["bridge-1"]}`,
		"other case":          `{"Bridges": []}`,
		"twice":               `{"bridges": [], "bridges": ["bridge-1"]}`,
		"two documents":       `{} {}`,
		"unfinished":          `{"bridges": []`,
		"bridges null":        `{"bridges": null}`,
		"a bridge null":       `{"bridges": [null]}`,
		"no name":             `{"bridges": ["Bridge 1"]}`,
		"an address":          `{"networks": ["10.0.0.1"]}`,
		"host bits":           `{"networks": ["10.0.0.1/8"]}`,
		"mapped":              `{"networks": ["::ffff:10.0.0.0/104"]}`,
		"networks null":       `{"networks": null}`,
		"hours without zone":  `{"hours": {"days": ["mon"], "from": "07:00", "to": "19:00"}}`,
		"empty zone":          `{"hours": {"days": ["mon"], "from": "07:00", "to": "19:00", "zone": ""}}`,
		"local zone":          `{"hours": {"days": ["mon"], "from": "07:00", "to": "19:00", "zone": "Local"}}`,
		"no such zone":        `{"hours": {"days": ["mon"], "from": "07:00", "to": "19:00", "zone": "Mars/Olympus"}}`,
		"no such day":         `{"hours": {"days": ["monday"], "from": "07:00", "to": "19:00", "zone": "UTC"}}`,
		"a day twice":         `{"hours": {"days": ["mon","mon"], "from": "07:00", "to": "19:00", "zone": "UTC"}}`,
		"no such time":        `{"hours": {"days": ["mon"], "from": "7:00", "to": "19:00", "zone": "UTC"}}`,
		"25 o'clock":          `{"hours": {"days": ["mon"], "from": "07:00", "to": "25:00", "zone": "UTC"}}`,
		"from 24:00":          `{"hours": {"days": ["mon"], "from": "24:00", "to": "07:00", "zone": "UTC"}}`,
		"no time between":     `{"hours": {"days": ["mon"], "from": "07:00", "to": "07:00", "zone": "UTC"}}`,
		"rate of 0":           `{"rate": {"count": 0, "per": "1h"}}`,
		"rate without per":    `{"rate": {"count": 1}}`,
		"per of 0":            `{"rate": {"count": 1, "per": "0s"}}`,
		"per without a unit":  `{"rate": {"count": 1, "per": "60"}}`,
		"count in a fraction": `{"rate": {"count": 1.5, "per": "1h"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := keeper.ParsePolicy([]byte(text)); err == nil {
				t.Error("accepted")
			}
			path := filepath.Join(t.TempDir(), "policy.json")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := keeper.OpenPolicy(path, slog.New(slog.DiscardHandler)); err == nil {
				t.Error("a keeper would start with it")
			}
		})
	}
	if _, err := keeper.OpenPolicy(filepath.Join(t.TempDir(), "none"), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a keeper would start without its policy")
	}
}

// The file rules at once, and one that cannot be used closes the keeper.
func TestPolicyReload(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	path, p := policyFile(t, `{"bridges": ["bridge-1"], "networks": ["127.0.0.0/8"]}`)
	k.Config.Policy = p.Allow
	k.Start(t)
	v := visitAs(t, s, s.Bridge, k)
	for _, step := range []struct{ name, text, want string }{
		{"allowed", "", ""},
		{"another bridge", `{"bridges": ["bridge-2"]}`, "policy of keeper keeper-1: bridges: bridge-1 is not listed"},
		{"damaged", `{"bridges": ["bridge-1"]`, "the policy cannot be used, so nothing is released"},
		{"removed", "-", "the policy cannot be used, so nothing is released"},
		{"mended", `{"bridges": ["bridge-1"]}`, ""},
		{"another network", `{"networks": ["192.0.2.0/24"]}`, "networks: 127.0.0.1 is in none"},
	} {
		t.Run(step.name, func(t *testing.T) {
			switch step.text {
			case "":
			case "-":
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			default:
				if err := identity.WritePrivate(path, []byte(step.text)); err != nil {
					t.Fatal(err)
				}
			}
			_, share, err := v.release()
			if step.want == "" {
				if err != nil || len(share.GetSealed()) == 0 {
					t.Errorf("got %v", err)
				}
				return
			}
			v.refused(share, err, codes.PermissionDenied, step.want)
		})
	}
	if lines, _ := auditLines(t, k); lines != 3 {
		t.Errorf("%d audit lines, want the accept and two releases", lines)
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"bridges": ["bridge-1"], "networks": ["10.1.0.0/16", "2001:db8:1::/48"], "rate": {"count": 6, "per": "1h"}}`))
	f.Add([]byte(`{"hours": {"days": ["mon", "fri"], "from": "22:00", "to": "06:00", "zone": "UTC"}}`))
	f.Add([]byte(`{"bridges": [], "bridges": null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := keeper.ParsePolicy(b)
		if err != nil {
			return
		}
		third, err := keeper.ParsePolicy(again)
		if err != nil || !bytes.Equal(again, third) {
			t.Errorf("understood as %s, which is then %s, %v", again, third, err)
		}
	})
}
